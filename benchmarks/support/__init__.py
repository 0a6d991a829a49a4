"""Helpers of the benchmarks: loads, and the peers that are measured beside this project."""
