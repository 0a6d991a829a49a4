"""Kills the process at a named function, for tests that put this folder on PYTHONPATH.

KILL_POINTS lists functions, `module:name` or `module:Class.name`, separated by spaces. KILL_ARMED is the path of a
file: while it holds `before FUNCTION` or `after FUNCTION`, the first process that gets there removes it and dies by
SIGKILL.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import inspect
import os
import signal
import sys
from collections.abc import Callable
from functools import reduce, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

POINTS = os.environ.get("KILL_POINTS", "").split()
ARMED = Path(os.environ.get("KILL_ARMED", "/nonexistent"))


def die_if_armed(point: str) -> None:
    try:
        armed = ARMED.read_text() == point
    except FileNotFoundError:
        return
    if armed:
        ARMED.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def deadly(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function that may kill its process before it begins, or after it has returned."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        die_if_armed(f"before {name}")
        result = function(*args, **kwargs)
        die_if_armed(f"after {name}")
        return result

    @wraps(function)
    async def wait(*args: Any, **kwargs: Any) -> Any:
        die_if_armed(f"before {name}")
        result = await function(*args, **kwargs)
        die_if_armed(f"after {name}")
        return result

    return wait if inspect.iscoroutinefunction(function) else call


class Finder(importlib.abc.MetaPathFinder):
    """Replaces the functions of a module as soon as it is loaded."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        names = [point.partition(":")[2] for point in POINTS if point.partition(":")[0] == fullname]
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if names else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for name in names:
                *owners, last = name.split(".")
                owner = reduce(getattr, owners, module)
                setattr(owner, last, deadly(getattr(owner, last), f"{fullname}:{name}"))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if POINTS:
    sys.meta_path.insert(0, Finder())
