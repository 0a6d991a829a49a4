"""Environments as text in, text out: one folder each, listed in `registry.py`.

`environment_spec(name)` is the way in. The framework (protocol, registry, hosting, remote protocols, a local player)
stands beside the environments. Heavy packages are imported only when an environment is made.
"""

from env_adapters.registry import REGISTRY, environment_spec

__all__ = ["REGISTRY", "environment_spec"]
