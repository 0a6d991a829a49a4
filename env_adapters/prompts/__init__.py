"""Prompts with the words that a right answer contains: what a policy must not unlearn."""
