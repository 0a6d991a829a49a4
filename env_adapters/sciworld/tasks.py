"""ScienceWorld's tasks: 30 types with their variations, and the split of each."""

from __future__ import annotations

from functools import cache

from env_adapters.splits import held_out

PAPER = {
    "boil": 30,
    "melt": 30,
    "freeze": 30,
    "change-the-state-of-matter-of": 30,
    "use-thermometer": 540,
    "measure-melting-point-known-substance": 436,
    "measure-melting-point-unknown-substance": 300,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 20,
    "test-conductivity": 900,
    "test-conductivity-of-unknown-substances": 600,
    "find-living-thing": 300,
    "find-non-living-thing": 300,
    "find-plant": 300,
    "find-animal": 300,
    "chemistry-mix": 32,
    "chemistry-mix-paint-secondary-color": 36,
    "chemistry-mix-paint-tertiary-color": 36,
    "lifespan-longest-lived": 125,
    "lifespan-shortest-lived": 125,
    "lifespan-longest-lived-then-shortest-lived": 125,
    "identify-life-stages-1": 14,
    "identify-life-stages-2": 10,
}
"""The 23 types of AgentGym and AgentGym-RL (arXiv 2509.08755), with their numbers of variations."""
MORE = {
    "grow-plant": 126,
    "grow-fruit": 126,
    "inclined-plane-determine-angle": 168,
    "inclined-plane-friction-named-surfaces": 1386,
    "inclined-plane-friction-unnamed-surfaces": 162,
    "mendelian-genetics-known-plant": 120,
    "mendelian-genetics-unknown-plant": 480,
}
"""The simulator's other types."""
TEST_SHARE = 0.2


@cache
def splits_by_task() -> dict[str, str]:
    """Return the split of every task, such as `find-animal/12`."""
    splits: dict[str, str] = {}
    for types, prefix in ((PAPER, ""), (MORE, "more_")):
        for name, count in types.items():
            tasks = [f"{name}/{variation}" for variation in range(count)]
            chosen = held_out("sciworld", tasks, max(1, round(count * TEST_SHARE)))
            splits.update((task, prefix + ("test" if task in chosen else "train")) for task in tasks)
    return splits
