"""The record: episodes, their turns and tokens. A turn is written once, and durable before its answer leaves."""
