"""Environments and services for tests."""
