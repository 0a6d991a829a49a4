"""Campaigns: runs that continue one another from night to night."""
