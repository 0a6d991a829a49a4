"""Hooks for schemathesis: valid values that the schema cannot express, such as existing ids and sensible messages.

Schemathesis invents all values. In the parts of a request that are meant to be valid, most are replaced by these;
otherwise nearly every request would end as a 404 or 400 and never reach the code behind.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.core.parameters import ParameterLocation

THINGS: dict[str, list[Any]] = json.loads(Path("things.json").read_text())
"""Valid values by the name of a parameter or of a field of the body."""
OFTEN = 0.8
chance = random.Random(9755)


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case, __: dict[str, Any]) -> None:
    """Insert valid values."""
    parts = {
        ParameterLocation.PATH: case.path_parameters,
        ParameterLocation.BODY: case.body,
        ParameterLocation.HEADER: case.headers,
    }
    for location, values in parts.items():
        if not values or not hasattr(values, "items") or (case.meta and case.meta.is_negative_at(location)):
            continue
        for name in list(values):
            if name in THINGS and chance.random() < OFTEN:
                values[name] = chance.choice(THINGS[name])
    if isinstance(case.body, dict) and isinstance(case.body.get("tools"), list):
        del case.body["tools"][1:]  # Two tools with the same name are refused.
