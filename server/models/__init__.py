"""Base models: fetching them, and reading and validating weight files."""
