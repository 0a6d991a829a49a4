"""The database is full, locked or restarting: a clear error, no hang, and every answered turn is there afterwards."""

from __future__ import annotations

import itertools
import json
import resource
import signal
import sqlite3
import subprocess
import sys
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
from tests.e2e.reliability.test_faults import process
from tests.e2e.reliability.test_load import recorded, wait_until
from tests.support.live import script, serving, settings_for
from tests.support.postgres import running_postgres
from upturn.wire import EpisodeOpen

ASK = [{"role": "user", "content": "Hi"}]
LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("begin immediate")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("rollback")
"""


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Another process holds the database's write lock."""
    command = [sys.executable, "-c", LOCK, str(data_dir / "upturn.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            other.stdin.write("\n")
            other.stdin.close()
            other.wait(60)


class Load:
    """Clients that ask and ask, each request once, and remember what was answered and what was refused."""

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

    def everybody_is_answered(self) -> None:
        """Wait until each client has got one more answer."""
        before = [len(answers) for answers in self.answered]
        wait_until(
            lambda: bool(self.broken) or all(len(now) > then for now, then in zip(self.answered, before, strict=True)),
            "an answer for everybody",
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

    def must_have_been_told(self) -> None:
        """Every refusal is a 503 that says when to come back, or an error within a stream that had begun."""
        for error in self.refused:
            assert not isinstance(error, openai.APIConnectionError), repr(error)
            assert error.code == "database_unavailable", repr(error)
            if isinstance(error, openai.APIStatusError):
                assert error.status_code == 503 and int(error.response.headers["retry-after"]) > 0

    def must_be_among(self, turn_ids: list[str]) -> None:
        """Every answered turn is in the record, once."""
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
    """Hand rows to a writer as one group; return what became of each."""
    writer, gate = Writer(database.writer), threading.Event()
    first = writer.submit(lambda _: gate.wait())  # While it waits, the others gather.
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


def test_a_full_disk_in_the_middle_of_a_group_of_writes_loses_none_that_was_answered(database: Database) -> None:
    with database.writer.begin() as connection:
        pages = connection.exec_driver_sql("pragma page_count").scalar()
        connection.exec_driver_sql(f"pragma max_page_count = {pages + 6}")
    *before, large, last = written_together(database, [play("a"), play("b"), play("large", 100_000), play("c")])
    assert (before, last) == ([None, None], None) and isinstance(large, Unavailable)
    assert plays_in(database) == ["a", "b", "c"]


def test_a_row_that_breaks_a_rule_when_its_work_is_done_fails_alone(database: Database) -> None:
    stateless = PlayRow(id="stateless", request={}, created_at=0.0)
    first, wrong, last = written_together(database, [play("a"), stateless, play("b")])
    assert (first, last) == (None, None) and isinstance(wrong, sa.exc.IntegrityError)
    assert plays_in(database) == ["a", "b"]


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """Mount a disk of 16 MB, which takes root."""
    directory.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"this user may not mount a small disk ({made.stderr.strip()}); the other case needs no right")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no byte on a disk, for a while."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass  # Full: that is what we are here for.
    yield
    filler.unlink()


@contextmanager
def no_larger_files(pid: int, data_dir: Path) -> Iterator[None]:
    """Let a process write no file beyond the size of its largest, for a while."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in data_dir.glob("upturn.db*"))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
@pytest.mark.parametrize("kind", ["no space left", "no larger files"])
def test_a_full_disk_gives_503_until_there_is_room_again(tmp_path: Path, kind: str) -> None:
    model = script(tmp_path / "script", "Hello there.")
    if kind == "no space left":
        with small_disk(tmp_path / "disk") as disk:
            fill_up(disk / "data", model, lambda _: filled(disk))
    else:
        fill_up(tmp_path / "data", model, lambda pid: no_larger_files(pid, tmp_path / "data"))


def fill_up(data_dir: Path, model: Path, full: Callable[[int], AbstractContextManager[None]]) -> None:
    """Serve while the disk fills and is freed again."""
    with process(data_dir, model, "--engine.kind", "scripted") as (server, url):
        with Load(url, size=1500) as load:
            load.everybody_is_answered()
            with full(server.pid):
                wait_until(lambda: len(load.refused) > 40, "refusals")
            load.everybody_is_answered()
        load.must_have_been_told()
        load.must_be_among([turn["id"] for turn in recorded(data_dir)])
        server.send_signal(signal.SIGINT)
        server.wait(60)
    connection = sqlite3.connect(data_dir / "upturn.db")
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


def test_requests_wait_for_a_database_that_another_process_has_locked(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live, ExitStack() as clients:
        with locked(tmp_path / "data"):
            load = clients.enter_context(Load(live.url))
            time.sleep(2)
            assert load.answered == [[]] * 8, "answered before it was recorded"
        load.everybody_is_answered()
    assert load.refused == []
    load.must_be_among([turn["id"] for turn in recorded(tmp_path / "data")])


def test_a_lock_that_stays_gives_503_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    url = f"sqlite:///{tmp_path / 'data' / 'upturn.db'}?timeout=1"
    with serving(settings_for(tmp_path / "data", model=str(model), database_url=url)) as live:
        opened = live.client.open_episode(EpisodeOpen(horizon=1))
        api = live.openai(key=opened.key)
        with locked(tmp_path / "data"), Load(live.url, clients=16) as load:
            wait_until(lambda: len(load.refused) > 32, "refusals")
            with pytest.raises(openai.InternalServerError) as refused:
                api.chat.completions.create(model="policy", messages=ASK)
            with pytest.raises(openai.APIError) as cut:
                list(api.chat.completions.create(model="policy", messages=ASK, stream=True))
            assert refused.value.code == cut.value.code == "database_unavailable"
        load.must_have_been_told()
        assert load.answered == [[]] * 16 and recorded(tmp_path / "data") == []
        assert api.chat.completions.create(model="policy", messages=ASK).choices[0].message.content == "Hello there."
        (turn,) = live.client.episode(opened.id).turns
        assert len(turn.token_ids) == turn.prompt_tokens + turn.completion_tokens


def test_what_could_not_be_written_is_not_taken_for_done(tmp_path: Path) -> None:
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
def test_a_postgresql_that_crashes_and_comes_back_loses_no_answered_turn(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    with (
        running_postgres() as postgres,
        serving(settings_for(tmp_path / "data", model=str(model), database_url=postgres.url)) as live,
    ):
        with Load(live.url) as load:
            for how in (signal.SIGQUIT, signal.SIGINT):
                load.everybody_is_answered()
                before = len(load.refused)
                postgres.stop(how)
                wait_until(lambda before=before: len(load.refused) > before + 40, "refusals")
                postgres.start()
                load.everybody_is_answered()
        load.must_have_been_told()
        with live.parts.database.read() as session:
            load.must_be_among(list(session.scalars(sa.select(TurnRow.id))))
            asked = [json.dumps(messages) for messages in session.scalars(sa.select(TurnRow.messages))]
        assert len(asked) == len(set(asked)), "a request was recorded twice"
