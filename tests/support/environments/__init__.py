"""Environments and services that tests play with."""
