"""What the promotion gate judges by: its tasks, its test, and the level of each decision."""
