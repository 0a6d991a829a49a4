"""The tests: each function states and checks one promise."""
