"""Training runs that tests carry out, from the first request to the promotion."""
