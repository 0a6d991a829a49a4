"""A real browser for web environments."""
