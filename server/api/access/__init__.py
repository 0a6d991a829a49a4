"""Who may call which route, how often, and with what body."""
