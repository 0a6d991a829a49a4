"""Messages to token ids, and sampled ids back to messages (step 2 of the straight line)."""
