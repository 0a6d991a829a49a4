"""The state of the benchmark between two phases of a night: one file, replaced as a whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

from benchmarks.support.thirty_nights.table import Row
from benchmarks.support.thirty_nights.users import Reward, Tally

Phase = Literal["day", "night", "morning"]
AFTER: dict[Phase, Phase] = {"day": "night", "night": "morning", "morning": "day"}


@dataclass
class State:
    """Where the benchmark is. A phase that was interrupted begins again; its run is not started again."""

    engine: str
    quick: bool
    begin: float
    """Midnight before the first day, in Unix seconds."""
    clock: float
    """What the clock showed when the phase began."""
    night: int = 0
    """Night 0 is only a morning: the measurement before all training."""
    phase: Phase = "morning"
    struck: bool = False
    """The night's kill, or its change of the clock, has been done."""
    seconds: float = 0.0
    """Running time so far."""
    pending: list[Reward] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    """What the users counted since the last morning."""
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the state."""
        read = json.loads(path.read_text())
        read["pending"] = [Reward(**each) for each in read["pending"]]
        read["tally"] = Tally(**read["tally"])
        read["rows"] = [Row(**each) for each in read["rows"]]
        return cls(**read)

    def save(self, path: Path) -> None:
        """Replace the file, so that it holds the old or the new state at any time."""
        new = path.with_suffix(".new")
        with new.open("w") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def advance(self) -> None:
        """Go to the next phase."""
        if self.phase == "morning":
            self.night, self.struck = self.night + 1, False
        self.phase = AFTER[self.phase]
