"""Reads recorded episodes for lists. Whole transcripts are in `server/recording/transcript.py`."""
