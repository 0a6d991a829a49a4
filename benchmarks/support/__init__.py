"""Support for the benchmarks: load generators, and peers for comparison."""
