"""Environments as text in, text out: one folder each, listed in `registry.py`.

`environment_spec(name)` loads one. The framework is the modules of this folder, `hosting/` (where instances run) and
`remote/` (environments by URL); `browser/` serves the web environments. Heavy packages are imported only when an
instance is made.
"""

from env_adapters.registry import REGISTRY, environment_spec

__all__ = ["REGISTRY", "environment_spec"]
