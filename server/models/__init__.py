"""Where base models come from, and what is in their weight files."""
