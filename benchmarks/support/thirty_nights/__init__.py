"""The parts of `benchmarks/thirty_nights.py`."""
