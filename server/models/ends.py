"""The tokens at which a model's own configuration ends an answer."""

from __future__ import annotations

import json
from pathlib import Path


def configured_ends(directory: Path) -> frozenset[int]:
    """Return the `eos_token_id`s of `config.json` and `generation_config.json`: each may list several, or none."""
    ends: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        ids = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        ends.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(ends)
