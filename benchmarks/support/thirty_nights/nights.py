"""Lives through the nights of a plan, each in three phases: a day of users, a run, and the morning's measurement."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.support.thirty_nights import game
from benchmarks.support.thirty_nights.clock import Clock
from benchmarks.support.thirty_nights.plan import LATEST_KILL_S, Event, Plan
from benchmarks.support.thirty_nights.record import Record
from benchmarks.support.thirty_nights.sabotage import publish_bad_weights
from benchmarks.support.thirty_nights.served import Served
from benchmarks.support.thirty_nights.state import State
from benchmarks.support.thirty_nights.table import Row
from benchmarks.support.thirty_nights.users import HOUR_S, Users
from upturn.client import Client

DAY_S = 24 * HOUR_S
LONGEST_S = 900.0
"""Maximum wait for a run and its decision; the benchmark fails after it."""
BUSY_S = 0.5
"""How long users talk without a pause before a kill at random."""
PAUSE_S = 0.5
"""Of each user between two conversations of the night."""


class Nights:
    """The nights of a plan, from any state on."""

    def __init__(self, plan: Plan, state: State, directory: Path, server: Served, client: Client, clock: Clock) -> None:
        self._plan = plan
        self._state = state
        self._directory = directory
        self._server = server
        self._client = client
        self._clock = clock
        self._record = Record(directory / "data" / "upturn.db")
        self._users = Users(server, clock, state.pending, plan.seed + state.night)
        self._random = random.Random(plan.seed + state.night)

    def live_one_phase(self) -> None:
        """Do what the state's phase asks for, and go to the next one."""
        {"day": self._day, "night": self._night, "morning": self._morning}[self._state.phase]()
        taken, tally = self._users.take(), self._state.tally
        tally.answered += taken.answered
        tally.repeated += taken.repeated
        tally.failed += taken.failed
        self._state.pending = list(self._users.pending)
        self._state.advance()
        self._state.clock = self._clock.now()

    def _day(self) -> None:
        """Let users talk at noon, and reward in the hours after; sabotage is done in the evening."""
        noon = self._hour(-12)
        self._clock.set(noon)
        self._users.talk(self._plan.conversations)
        self._reward(noon, range(1, 7))
        if self._event == "sabotage":
            self._clock.set(self._hour(-2))
            if self._record.by_hand() is None:
                publish_bad_weights(self._client, self._plan, self._directory)
            _until(lambda: (run := self._record.by_hand()) and run.over, "nothing was decided about the bad weights")

    def _night(self) -> None:
        """Let the schedule start the night's run, strike, and wait for the decision while users talk."""
        file, number = self._directory / "game", self._state.night
        event = self._event
        game.set_state(file, event if event == "loophole" or event == "broken" else "normal")
        if self._record.runs() < number:
            self._clock.set(self._hour(1) - 2)
        with self._users.talking(PAUSE_S):
            _until(lambda: self._record.runs() >= number, "the schedule started no run")
            if not self._state.struck:
                self._strike()
                self._state.struck = True
            _until(lambda: self._record.run(number).over, "the night's run was not decided")
        game.set_state(file, "normal")

    def _morning(self) -> None:
        """Let users reward the night's conversations, measure the champion, and check the record."""
        self._reward(self._hour(1), range(1, 7))
        play = self._client.wait_for_play(self._client.start_play(self._plan.measurement()).id)
        if play.state != "done" or play.errors:
            raise RuntimeError(f"the measurement {play.state}: {play.errors} errors, {play.error}")
        record, number, tally = self._record, self._state.night, self._state.tally
        run = record.run(number) if number else None
        by_hand = record.by_hand() if self._event == "sabotage" else None
        row = Row(
            night=number,
            event=self._event,
            outcome=run.outcome if run else "start",
            champion=record.champion(),
            horizon=run.horizon if run else None,
            tasks=record.success(play.id),
            live_reward=record.live_reward(tally.answered),
            turns=len(tally.answered),
            lost=record.missing(tally.answered),
            twice=record.surplus(tally.answered),
            repeated=tally.repeated,
            failed=tally.failed,
            runs=record.runs(),
            rollbacks=record.rollbacks(),
            interrupted_swaps=record.interrupted_swaps(),
            found=run.found if run else [],
            by_hand=by_hand.decision if by_hand else None,
        )
        self._state.rows.append(row)
        self._state.tally = type(tally)()

    @property
    def _event(self) -> Event | None:
        return self._plan.events().get(self._state.night)

    def _hour(self, hour: float) -> float:
        """Return the time of an hour after the midnight of the state's night, in Unix seconds."""
        return self._state.begin + self._state.night * DAY_S + hour * HOUR_S

    def _reward(self, begin: float, hours: range) -> None:
        for hour in hours:
            self._clock.set(begin + hour * HOUR_S)
            self._users.reward()

    def _strike(self) -> None:
        """Kill the server, or set its clock back, if the plan says so for the night."""
        number = self._state.night
        if self._event == "kill":
            time.sleep(self._random.uniform(0, LATEST_KILL_S))
            with self._users.talking(0.0):  # So that the kill interrupts requests.
                time.sleep(BUSY_S)
                self._server.kill()
        if self._event == "swap":
            with self._users.talking(0.0):
                _until(lambda: self._record.loading() or self._record.run(number).over, "there was no swap", 0.001)
                self._server.kill()
        if self._event == "clock":
            _until(lambda: self._record.run(number).state != "queued", "no learner took the run")
            self._clock.set(self._clock.now() - HOUR_S)


def _until(condition: Callable[[], object], failure: str, pause_s: float = 0.2) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{failure} within {LONGEST_S:.0f} s")
        time.sleep(pause_s)
