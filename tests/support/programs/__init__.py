"""Programs of others that tests start: agents, and the interpreters they need."""
