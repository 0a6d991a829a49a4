"""Helpers of the tests: servers, models, and engines to test with."""
