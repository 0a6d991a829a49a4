"""The record: turns written once, durable before the answer leaves; and the life of an episode."""
