"""When training runs start: triggers, windows of the day, and requests."""
