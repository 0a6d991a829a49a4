"""A task set of verifiers with a tool."""

from prices_taskset.taskset import PricesTaskset

__all__ = ["PricesTaskset"]
