"""One short file per algorithm: the formula and its source beside the code."""
