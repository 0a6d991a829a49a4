"""Wiring: builds the parts of the server from its settings, provides them to routes, and orders start and close."""
