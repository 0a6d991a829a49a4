"""A full, locked or restarting database: a clear error, no hang, and every answered turn in the record afterwards."""

from __future__ import annotations

import itertools
import json
import resource
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import openai
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import migrations
from env_adapters import environment_spec
from server.errors import Unavailable
from server.store.database import Database
from server.store.tables import PlayRow, TurnRow
from server.store.writer import Writer
from tests.support.database import locked, recorded
from tests.support.live import script, serving, settings_for, until
from tests.support.postgres import running_postgres
from tests.support.process import process
from upturn.wire import EpisodeOpen

ASK = [{"role": "user", "content": "Hi"}]


class Load:
    """Clients that send one new request after another, and remember which were answered and which refused."""

    def __init__(self, url: str, clients: int = 8, size: int = 1) -> None:
        self.answered: list[list[str]] = [[] for _ in range(clients)]
        self.refused: list[openai.APIError] = []
        self.broken: list[BaseException] = []
        self._url, self._size = url, size
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"
        assert self.broken == []

    def wait_for_all_clients(self) -> None:
        """Wait until each client has received one more answer."""
        before = [len(answers) for answers in self.answered]
        until(
            lambda: bool(self.broken) or all(len(now) > then for now, then in zip(self.answered, before, strict=True)),
            "some client got no answer",
        )

    def _ask(self, number: int) -> None:
        with openai.OpenAI(base_url=f"{self._url}/v1", api_key=f"sk-{number}", max_retries=0, timeout=60) as api:
            try:
                for count in itertools.count():
                    if self._stop.is_set():
                        return
                    try:
                        self.answered[number].append(self._one(api, f"{number} {count} ".ljust(self._size), count % 2))
                    except openai.APIError as error:
                        self.refused.append(error)
                        time.sleep(0.02)
            except BaseException as error:
                self.broken.append(error)

    def _one(self, api: openai.OpenAI, content: str, streams: int) -> str:
        messages = [{"role": "user", "content": content}]
        if not streams:
            return api.chat.completions.create(model="policy", messages=messages).id
        chunks = list(api.chat.completions.create(model="policy", messages=messages, stream=True))
        assert chunks[-1].choices[0].finish_reason == "stop"
        return chunks[-1].id

    def check_refusals(self) -> None:
        """Check that each refusal is a 503 with `Retry-After`, or an error inside a stream that had begun."""
        for error in self.refused:
            assert not isinstance(error, openai.APIConnectionError), repr(error)
            assert error.code == "database_unavailable", repr(error)
            if isinstance(error, openai.APIStatusError):
                assert error.status_code == 503 and int(error.response.headers["retry-after"]) > 0

    def check_record(self, turn_ids: list[str]) -> None:
        """Check that the record contains every answered turn once."""
        ids = [identity for answers in self.answered for identity in answers]
        assert len(turn_ids) == len(set(turn_ids)) and len(ids) == len(set(ids)) > 0
        assert set(ids) <= {f"chatcmpl-{turn_id}" for turn_id in turn_ids}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'test.db'}")
    migrations.upgrade(made.writer)
    yield made
    made.close()


def written_together(database: Database, plays: list[PlayRow]) -> list[BaseException | None]:
    """Write rows as one group; return the error of each, or None."""
    writer, gate = Writer(database.writer), threading.Event()
    first = writer.submit(lambda _: gate.wait())  # While it waits, the others queue up.
    futures = [writer.submit(partial(Session.add, instance=row)) for row in plays]
    gate.set()
    first.result(60)
    failures = [future.exception(60) for future in futures]
    writer.close()
    return failures


def play(name: str, size: int = 10) -> PlayRow:
    return PlayRow(id=name, state="done", request={"text": "x" * size}, created_at=0.0)


def plays_in(database: Database) -> list[str]:
    with database.read() as session:
        return sorted(session.scalars(sa.select(PlayRow.id)))


def test_a_full_disk_in_the_middle_of_a_group_loses_no_write_that_was_reported_as_done(database: Database) -> None:
    with database.writer.begin() as connection:
        pages = connection.exec_driver_sql("pragma page_count").scalar()
        connection.exec_driver_sql(f"pragma max_page_count = {pages + 6}")
    *before, large, last = written_together(database, [play("a"), play("b"), play("large", 100_000), play("c")])
    assert (before, last) == ([None, None], None) and isinstance(large, Unavailable)
    assert plays_in(database) == ["a", "b", "c"]


def test_a_row_that_violates_a_constraint_at_the_flush_fails_alone(database: Database) -> None:
    stateless = PlayRow(id="stateless", request={}, created_at=0.0)
    first, wrong, last = written_together(database, [play("a"), stateless, play("b")])
    assert (first, last) == (None, None) and isinstance(wrong, sa.exc.IntegrityError)
    assert plays_in(database) == ["a", "b"]


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """Mount a disk of 16 MB, which requires root."""
    directory.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"this user may not mount a small disk ({made.stderr.strip()}); the other case needs no privilege")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Fill a disk until the block ends."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass  # The disk is full, as intended.
    yield
    filler.unlink()


@contextmanager
def no_larger_files(pid: int, data_dir: Path) -> Iterator[None]:
    """Forbid a process to grow any file beyond its database's largest, until the block ends."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in data_dir.glob("upturn.db*"))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
@pytest.mark.parametrize("kind", ["no space left", "no larger files"])
def test_a_full_disk_gives_503_until_there_is_space_again(tmp_path: Path, kind: str) -> None:
    model = script(tmp_path / "script", "Hello there.")
    if kind == "no space left":
        with small_disk(tmp_path / "disk") as disk:
            fill_up(disk / "data", model, lambda _: filled(disk))
    else:
        fill_up(tmp_path / "data", model, lambda pid: no_larger_files(pid, tmp_path / "data"))


def fill_up(data_dir: Path, model: Path, full: Callable[[int], AbstractContextManager[None]]) -> None:
    """Serve while the disk is full, and after it was freed."""
    with process(data_dir, model, "--engine.kind", "scripted", "--min-free-bytes", "0") as (server, url):
        with Load(url, size=1500) as load:
            load.wait_for_all_clients()
            with full(server.pid):
                until(lambda: len(load.refused) > 40, "too few requests were refused")
            load.wait_for_all_clients()
        load.check_refusals()
        load.check_record([turn["id"] for turn in recorded(data_dir)])
        server.send_signal(signal.SIGINT)
        server.wait(60)
    connection = sqlite3.connect(data_dir / "upturn.db")
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


def test_requests_wait_while_another_process_locks_the_database(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live, ExitStack() as clients:
        with locked(tmp_path / "data"):
            load = clients.enter_context(Load(live.url))
            time.sleep(2)
            assert load.answered == [[]] * 8, "answered before it was recorded"
        load.wait_for_all_clients()
    assert load.refused == []
    load.check_record([turn["id"] for turn in recorded(tmp_path / "data")])


def test_a_long_lock_gives_503_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    url = f"sqlite:///{tmp_path / 'data' / 'upturn.db'}?timeout=1"
    with serving(settings_for(tmp_path / "data", model=str(model), database_url=url)) as live:
        opened = live.client.open_episode(EpisodeOpen(horizon=1))
        api = live.openai(key=opened.key)
        with locked(tmp_path / "data"), Load(live.url, clients=16) as load:
            until(lambda: len(load.refused) > 32, "too few requests were refused")
            with pytest.raises(openai.InternalServerError) as refused:
                api.chat.completions.create(model="policy", messages=ASK)
            with pytest.raises(openai.APIError) as cut:
                list(api.chat.completions.create(model="policy", messages=ASK, stream=True))
            assert refused.value.code == cut.value.code == "database_unavailable"
        load.check_refusals()
        assert load.answered == [[]] * 16 and recorded(tmp_path / "data") == []
        assert api.chat.completions.create(model="policy", messages=ASK).choices[0].message.content == "Hello there."
        (turn,) = live.client.episode(opened.id).turns
        assert len(turn.token_ids) == turn.prompt_tokens + turn.completion_tokens


def test_a_failed_write_is_not_treated_as_done(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    url = f"sqlite:///{tmp_path / 'data' / 'upturn.db'}?timeout=0.1"
    task = environment_spec("textcraft").tasks("train")[0]
    with serving(settings_for(tmp_path / "data", model=str(model), database_url=url)) as live:
        live_id = live.client.open_episode(EpisodeOpen()).id
        played = live.client.open_episode(EpisodeOpen(environment="textcraft", task=task)).id
        private = live.openai(default_headers={"x-episode-id": live_id, "x-no-train": "1"}).chat.completions
        step = f"/v1/episodes/{played}/steps"
        with locked(tmp_path / "data"):
            with pytest.raises(openai.InternalServerError):
                private.create(model="policy", messages=ASK)
            assert live.http.post(step, json={"action": "inventory"}).json()["error"]["code"] == "database_unavailable"
        private.create(model="policy", messages=ASK)
        assert not live.client.episode(live_id).trainable
        again = live.http.post(step, json={"action": "inventory"})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "no_environment"), "acted twice"
        assert live.client.episode(played).steps == []


@pytest.mark.postgres
def test_a_postgresql_crash_and_restart_loses_no_answered_turn(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    with (
        running_postgres() as postgres,
        serving(settings_for(tmp_path / "data", model=str(model), database_url=postgres.url)) as live,
    ):
        with Load(live.url) as load:
            for how in (signal.SIGQUIT, signal.SIGINT):
                load.wait_for_all_clients()
                before = len(load.refused)
                postgres.stop(how)
                until(lambda before=before: len(load.refused) > before + 40, "too few requests were refused")
                postgres.start()
                load.wait_for_all_clients()
        load.check_refusals()
        with live.parts.database.read() as session:
            load.check_record(list(session.scalars(sa.select(TurnRow.id))))
            asked = [json.dumps(messages) for messages in session.scalars(sa.select(TurnRow.messages))]
        assert len(asked) == len(set(asked)), "a request was recorded twice"
