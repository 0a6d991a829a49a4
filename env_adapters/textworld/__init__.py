"""TextWorld: generated text games."""
