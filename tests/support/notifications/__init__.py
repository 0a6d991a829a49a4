"""Receivers of notifications, and rows that notifications report."""
