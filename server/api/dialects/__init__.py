"""The APIs that agents speak: chat completions, completions, responses, and messages."""
