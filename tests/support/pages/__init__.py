"""People who look at the dashboard, for tests of its pages."""
