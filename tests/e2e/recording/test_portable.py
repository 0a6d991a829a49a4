"""Episodes out of one server and into another: nothing that was recorded changes on the way."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import migrations
from server.__main__ import main
from server.commands import export, import_
from server.recording.episode import Episode, Episodes
from server.recording.recorder import NewTurn, Prompt, Recorder, Span
from server.recording.tokens import chain_hashes
from server.store.database import Database, new_id
from server.store.tables import BatchRow, EpisodeRow, NodeRow, RunEpisodeRow, RunRow, StepRow, TurnRow
from server.store.writer import Writer
from server.training.branches import samples
from tests.support.live import Live
from tests.support.postgres import running_postgres
from upturn.wire import RewardRequest

ROOT = Path(__file__).parents[3]
ASK: list[dict[str, Any]] = [{"role": "user", "content": "Grüß Gott, 東京"}]
MORE: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "and?"}], "name": "bob"}


class Scribe:
    """Records episodes as the server does, with tokens of our choice."""

    def __init__(self, database: Database) -> None:
        self.writer = Writer(database.writer)
        self.episodes, self.recorder = Episodes(database, self.writer), Recorder(self.writer)

    async def open(self, **about: Any) -> Episode:
        row = EpisodeRow(
            **{
                "id": new_id("ep"),
                "status": "open",
                "seed": 0,
                "horizon": 5,
                "purpose": "other",
                "policy_version": 3,
                "trainable": True,
                "details": {},
                "key_hash": new_id("secret"),
                "opened_at": time.time(),
                **about,
            }
        )
        await self.writer.write(lambda session: session.add(row))
        return await self.episodes.get(row.id)

    async def turn(
        self, episode: Episode, messages: list[dict[str, Any]], spans: list[Span], known: int = 0, **about: Any
    ) -> dict[str, Any]:
        """Record a turn that goes on from the first `known` messages, and return its answer."""
        hashes = chain_hashes(messages)
        parent = episode.tails[hashes[known - 1]] if known else None
        new_ids = [100 + len(hashes), 7]
        prompt = Prompt(
            [*(parent.path() if parent else []), *new_ids],
            parent,
            new_ids,
            messages[known:],
            hashes[-1],
            forked=episode.newest is not None and not known,
        )
        answer = {"role": "assistant", "content": f"answer {spans[0].token_ids if spans else 'none'}"}
        await self.recorder.record(
            episode,
            NewTurn(
                id=new_id("turn"),
                index=self.episodes.begin_turn(episode)[0],
                digest="d" * 64,
                prompt=prompt,
                answer=answer,
                spans=spans,
                duration_ms=1.25,
                **about,
            ),
        )
        return answer

    async def step(self, episode: Episode, index: int, reward: float) -> None:
        row = StepRow(
            episode_id=episode.id,
            index=index,
            action="look",
            observation="a box",
            reward=reward,
            terminated=False,
            truncated=index == 1,
            info={"room": [1, {"a": None}]},
            created_at=time.time(),
        )
        await self.writer.write(lambda session: session.add(row))


async def record_everything(database: Database) -> dict[str, str]:
    """Record one episode of each kind; return their ids."""
    scribe = Scribe(database)
    made = {}

    forked = await scribe.open(group_key="g", details={"user": {"name": "ä"}, "n": [1, 2.5, None]})
    first = await scribe.turn(forked, ASK, [Span(3, [1, 2, 3], [-0.1, -0.25, -1e-6])])
    await scribe.turn(forked, [*ASK, first, MORE], [Span(3, [4, 5], [-0.5, -2.0])], known=2, temperature=0.7)
    await scribe.turn(forked, [*ASK, first, ASK[0]], [Span(3, [6], [-3.0])], known=2, choice=1)
    await scribe.turn(forked, [MORE], [Span(3, [8, 9], [-0.5, -0.75])])
    await scribe.episodes.reward(forked.id, RewardRequest(value=0.1, source="judge", turn=1, key="once"))
    await scribe.episodes.reward(forked.id, RewardRequest(value=0.2))
    made["forked"] = forked.id

    swapped = await scribe.open(environment="textcraft", task="craft stick", seed=7, group_key="g")
    await scribe.turn(swapped, ASK, [Span(3, [1, 2], [-0.1, -0.2]), Span(4, [3], [-0.3]), Span(5, [4, 5], [-1.0, 0.0])])
    await scribe.step(swapped, 0, 0.0)
    await scribe.step(swapped, 1, 1.0)
    await scribe.episodes.end(swapped, "truncated", reason="the horizon", success=True)
    made["swapped"] = swapped.id

    broken = await scribe.open(environment="textcraft", task="craft bed")
    await scribe.turn(broken, ASK, [Span(3, [1], [-0.1])])
    await scribe.step(broken, 0, 0.0)
    await scribe.episodes.end(broken, "error", error_class="EnvironmentFailed", reason="it broke")
    made["broken"] = broken.id

    unrewarded = await scribe.open(trainable=False, policy_version=900, details={"half a pair": "\ud800"})
    await scribe.turn(unrewarded, ASK, [Span(900, [1, 2], [math.nan, -1.0])], untrainable_reason="logprobs_not_finite")
    await scribe.turn(unrewarded, [MORE], [Span(900, [1, 2], [-1.0])], untrainable_reason="logprobs_missing")
    await scribe.turn(unrewarded, [*ASK, MORE], [], untrainable_reason="empty", finish_reason="abort")
    await scribe.episodes.end(unrewarded, "closed")
    made["unrewarded"] = unrewarded.id

    shown = await scribe.open(environment="textcraft", task="craft door")
    await scribe.turn(shown, ASK, [Span(None, [2**31 - 1, 0], None)])
    await scribe.episodes.reward(shown.id, RewardRequest(value=0.0))
    await scribe.episodes.end(shown, "terminated", success=False)
    made["shown"] = shown.id
    scribe.writer.close()
    return made


def fresh(directory: Path) -> Database:
    directory.mkdir()
    database = Database(f"sqlite:///{directory / 'upturn.db'}")
    migrations.upgrade(database.writer)
    return database


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A data directory with an episode of each kind, and their ids."""
    database = fresh(tmp_path / "source")
    made = asyncio.run(record_everything(database))
    database.close()
    return tmp_path / "source", made


def exported(data_dir: Path, file: Path, *flags: str) -> list[dict[str, Any]]:
    assert main(["export", str(file), "--data-dir", str(data_dir), *flags]) == 0
    return [json.loads(line) for line in file.read_text().splitlines()] if file.suffix == ".jsonl" else []


def imported(data_dir: Path, file: Path, *flags: str) -> int:
    return main(["import", str(file), "--data-dir", str(data_dir), *flags])


def samples_in(data_dir: Path, ids: list[str]) -> list[Any]:
    database = Database(f"sqlite:///{data_dir / 'upturn.db'}")
    with database.read() as session:
        found = samples(session, ids)
    database.close()
    return found


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_went_through_another_server_is_the_same_bytes_and_trains_the_same_samples(
    source: tuple[Path, dict[str, str]], tmp_path: Path, form: str
) -> None:
    data_dir, made = source
    exported(data_dir, tmp_path / "before.jsonl")
    exported(data_dir, tmp_path / f"moved.{form}")
    assert imported(tmp_path / "target", tmp_path / f"moved.{form}") == 0
    exported(tmp_path / "target", tmp_path / "after.jsonl")
    assert (tmp_path / "after.jsonl").read_bytes() == (tmp_path / "before.jsonl").read_bytes()
    ids = list(made.values())
    assert len(ids) == 5
    assert samples_in(tmp_path / "target", ids) == samples_in(data_dir, ids) != []


def test_a_record_says_what_was_sampled_by_which_version_and_what_it_extends(
    source: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data_dir, made = source
    records = {record["id"]: record for record in exported(data_dir, tmp_path / "all.jsonl")}
    forked, swapped = records[made["forked"]], records[made["swapped"]]
    assert [turn["extends"] for turn in forked["turns"]] == [None, 0, 0, None]
    assert [turn["forked"] for turn in forked["turns"]] == [False, False, False, True]
    assert forked["turns"][1]["token_ids"] == [103, 7, 4, 5], "only what is new"
    assert forked["turns"][1]["loss_mask"] == [0, 0, 1, 1]
    assert forked["turns"][1]["logprobs"] == [None, None, -0.5, -2.0]
    assert json.loads(forked["turns"][1]["messages"]) == [MORE]
    assert forked["metadata"] == '{"user":{"name":"ä"},"n":[1,2.5,null]}'
    assert json.loads(records[made["unrewarded"]]["metadata"]) == {"half a pair": "\ud800"}
    assert forked["turns"][2]["choice"] == 1
    (turn,) = swapped["turns"]
    assert [(s["tokens"], s["sampled"], s["policy_version"]) for s in turn["spans"]] == [
        (2, False, None),
        (2, True, 3),
        (1, True, 4),
        (2, True, 5),
    ]
    assert swapped["steps"][1]["truncated"] and json.loads(swapped["steps"][1]["info"]) == {"room": [1, {"a": None}]}
    assert (records[made["broken"]]["status"], records[made["broken"]]["error_class"]) == ("error", "EnvironmentFailed")


def test_an_episode_that_nobody_rewarded_has_no_reward_which_is_not_0(
    source: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data_dir, made = source
    exported(data_dir, tmp_path / "all.parquet")
    imported(tmp_path / "target", tmp_path / "all.parquet")
    rewards = {r["id"]: r["reward"] for r in exported(tmp_path / "target", tmp_path / "again.jsonl")}
    assert rewards[made["unrewarded"]] is None
    assert rewards[made["shown"]] == 0.0
    assert rewards[made["forked"]] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        ([], ["forked", "swapped", "broken", "unrewarded", "shown"]),
        (["--environment", "textcraft"], ["swapped", "broken", "shown"]),
        (["--status", "truncated", "--status", "closed"], ["swapped", "unrewarded"]),
        (["--min-reward", "-1"], ["forked", "swapped", "broken", "shown"]),
        (["--min-reward", "0.3"], ["forked", "swapped"]),
        (["--trainable", "--limit", "2"], ["forked", "swapped"]),
        (["--since", "2020-01-31", "--until", "4000000000"], ["forked", "swapped", "broken", "unrewarded", "shown"]),
        (["--until", "2020-01-31T12:00:00+01:00"], []),
    ],
)
def test_filters_choose_what_is_exported(
    source: tuple[Path, dict[str, str]], tmp_path: Path, flags: list[str], kinds: list[str]
) -> None:
    data_dir, made = source
    records = exported(data_dir, tmp_path / "some.jsonl", *flags)
    assert [record["id"] for record in records] == [made[kind] for kind in kinds]


def test_episodes_that_are_there_are_skipped_or_replaced_with_their_lineage_kept(
    source: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir, made = source
    database = Database(f"sqlite:///{data_dir / 'upturn.db'}")
    with sa.orm.Session(database.writer) as session, session.begin():
        session.add(RunRow(id="run_1", state="done", trigger="test", config={}, step=1, created_at=1.0))
        session.flush()
        session.add(
            BatchRow(
                id="batch_1",
                run_id="run_1",
                step=4,
                horizon=5,
                state="trained",
                stats={},
                policy_version=8,
                created_at=1.0,
            )
        )
        session.flush()
        session.add(
            RunEpisodeRow(run_id="run_1", episode_id=made["shown"], batch_id="batch_1", advantage=0.5, weight=2.0)
        )
    before = exported(data_dir, tmp_path / "all.jsonl")
    assert before[4]["runs"] == [
        {"run_id": "run_1", "step": 4, "policy_version": 8, "advantage": 0.5, "trained_tokens": 2.0}
    ]
    assert imported(data_dir, tmp_path / "all.jsonl") == 0
    assert "0 episodes imported, 0 replaced, 5 skipped" in capsys.readouterr().out
    with sa.orm.Session(database.writer) as session, session.begin():
        session.execute(sa.update(TurnRow).values(answer={"role": "assistant", "content": "spoilt"}))
        session.execute(sa.delete(NodeRow))
    assert imported(data_dir, tmp_path / "all.jsonl", "--replace") == 0
    assert "0 episodes imported, 4 replaced, 1 skipped" in capsys.readouterr().out, "an open episode is its server's"
    after = exported(data_dir, tmp_path / "after.jsonl")
    assert after[1:] == before[1:]
    database.close()


def whole(turns: list[dict[str, Any]], turn: dict[str, Any], name: str) -> list[Any]:
    """Return a turn's list behind those of all turns that it extends: docs/data.md shows this to readers."""
    before = next((t for t in turns if t["index"] == turn["extends"]), None)
    return (whole(turns, before, name) if before else []) + turn[name]


def damage(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def done(line: str) -> str:
        record = json.loads(line)
        change(record)
        return json.dumps(record)

    return done


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda line: line[: len(line) // 2], "Invalid JSON"),
        (damage(lambda r: r.pop("status")), "status: Field required"),
        (damage(lambda r: r["turns"][0]["token_ids"].append(2**31)), "turns.0.token_ids.7"),
        (damage(lambda r: r["turns"][0]["token_ids"].pop()), "differ in length"),
        (damage(lambda r: r["turns"][0]["spans"].pop()), "do not agree with loss_mask"),
        (damage(lambda r: r["turns"][0].update(prompt_tokens=3)), "are 7 tokens, not 3 + 5"),
        (damage(lambda r: r["turns"][0]["spans"][1].update(sampled=False)), "do not agree with loss_mask"),
        (damage(lambda r: r["turns"][0].update(extends=5)), "does not come before it"),
        (damage(lambda r: r["steps"][0].update(reward="much")), "steps.0.reward"),
        (damage(lambda r: r.update(metadata="[]")), "metadata"),
        (damage(lambda r: r.update(metadata="[" * 200_000)), "metadata"),
        (damage(lambda r: r.update(id="ep_other")), "cannot be stored: UNIQUE constraint failed: turn.id"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_around_it_is_half_written(
    source: tuple[Path, dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[str], str],
    says: str,
) -> None:
    data_dir, _ = source
    exported(data_dir, tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    many = [lines[1]] * (import_.CHUNK - 1)
    (tmp_path / "bad.jsonl").write_text("\n".join([lines[0], *many, lines[2], lines[1], spoil(lines[1])]) + "\n")
    assert imported(tmp_path / "target", tmp_path / "bad.jsonl") == 1
    said = capsys.readouterr()
    assert f"line {import_.CHUNK + 3}: " in said.err and says in said.err
    assert "Traceback" not in said.err
    assert f"2 episodes imported, 0 replaced, {import_.CHUNK - 2} skipped" in said.out
    there = exported(tmp_path / "target", tmp_path / "there.jsonl")
    assert there == [json.loads(line) for line in lines[:2]]


def test_a_file_that_is_no_parquet_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.parquet").write_text("not at all")
    assert imported(tmp_path / "target", tmp_path / "bad.parquet") == 1
    assert "not a readable Parquet file" in capsys.readouterr().err


def test_a_server_that_runs_on_the_database_shows_what_was_imported_and_answers_meanwhile(
    live: Live, source: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data_dir, made = source
    exported(data_dir, tmp_path / "all.jsonl")
    target = live.parts.settings.data_dir
    assert imported(target, tmp_path / "all.jsonl") == 0
    live.openai().chat.completions.create(model="policy", messages=ASK)
    view = live.client.episode(made["forked"])
    (record, *_) = exported(target, tmp_path / "there.jsonl")
    assert record["id"] == view.id
    for name in ("token_ids", "loss_mask", "logprobs"):
        assert [whole(record["turns"], turn, name) for turn in record["turns"]] == [
            getattr(turn, name) for turn in view.turns
        ]
    assert len(exported(target, tmp_path / "there.jsonl")) == 6


def test_an_interrupt_leaves_the_file_that_was_there(
    source: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir, _ = source
    monkeypatch.setattr(export, "CHUNK", 1)
    (tmp_path / "all.jsonl").write_text("what was there")
    seen = []

    def interrupt(*_: Any) -> None:
        seen.append(tmp_path.joinpath("all.jsonl.part").exists())
        if seen.count(True) == 3:  # In the middle: each chunk takes several statements.
            signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # Whatever ran in this process before.
    sa.event.listen(sa.Engine, "before_cursor_execute", interrupt)
    try:
        assert main(["export", str(tmp_path / "all.jsonl"), "--data-dir", str(data_dir)]) == 130
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", interrupt)
        signal.signal(signal.SIGINT, handler)
    assert seen[-1], "it was not writing yet"
    assert (tmp_path / "all.jsonl").read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.jsonl", "source"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_number_of_episodes(
    source: tuple[Path, dict[str, str]], tmp_path: Path, form: str
) -> None:
    data_dir, _ = source
    (line, *_) = exported(data_dir, tmp_path / "one.jsonl", "--limit", "1")
    line["metadata"] = json.dumps({"much": "x" * 20_000})
    peaks = []
    for count in (40, 160):
        with (tmp_path / "many.jsonl").open("w") as file:
            for number in range(count):
                turns = [{**turn, "id": f"{number}-{turn['index']}"} for turn in line["turns"]]
                rewards = [{**reward, "id": f"{number}-{reward['id'][-4:]}"} for reward in line["rewards"]]
                file.write(json.dumps({**line, "id": f"ep_{number:06}", "turns": turns, "rewards": rewards}) + "\n")
        target, moved = tmp_path / f"target{count}", tmp_path / f"many{count}.{form}"
        assert imported(target, tmp_path / "many.jsonl") == 0
        tracemalloc.start()
        exported(target, moved) if form == "parquet" else main(["export", str(moved), "--data-dir", str(target)])
        imported(tmp_path / f"again{count}", moved)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], peaks


LOAD = """
import json, sys
from datasets import load_dataset
data = load_dataset(sys.argv[1], data_files=sys.argv[2], split="train", cache_dir=sys.argv[3])
turns = data.features["turns"].feature
kinds = {name: turns[name].feature.dtype for name in ("token_ids", "loss_mask", "logprobs")}
print(json.dumps({"rows": list(data), "kinds": kinds}))
"""


@pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed")
@pytest.mark.parametrize(("builder", "form"), [("json", "jsonl"), ("parquet", "parquet")])
def test_datasets_reads_both_forms_with_lists_of_numbers_as_such(
    source: tuple[Path, dict[str, str]], tmp_path: Path, builder: str, form: str
) -> None:
    data_dir, _ = source
    expected = exported(data_dir, tmp_path / "all.jsonl")
    file = tmp_path / f"all.{form}"
    exported(data_dir, file)
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, builder, str(file), str(tmp_path / "cache")],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    found, known = [
        json.loads(text, parse_float=lambda x: float(f"{float(x):.14g}"))  # its JSON reader rounds so
        for text in (loaded.stdout, json.dumps(expected))
    ]
    assert found["rows"] == known
    assert found["kinds"]["token_ids"] in ("int32", "int64") and found["kinds"]["logprobs"] == "float64"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["export", "x.jsonl", "--data-dir", "nowhere"], "there is no database"),
        (["export", "x.csv", "--data-dir", "nowhere"], "say which it is with --format"),
        (["import", "nothing.jsonl", "--data-dir", "data"], "nothing.jsonl"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, command: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", *command],
        cwd=tmp_path,
        text=True,
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_parquet_without_pyarrow_says_what_to_install_and_jsonl_needs_none(
    source: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; from server.__main__ import main; "
        "sys.exit(main(['export', *sys.argv[1:]]))"
    )
    for form, returned in (("parquet", 1), ("jsonl", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"x.{form}"), "--data-dir", str(source[0])],
            cwd=ROOT,
            text=True,
            check=False,
            capture_output=True,
        )
        assert done.returncode == returned
        assert ("pip install pyarrow" in done.stderr) == bool(returned)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "x.jsonl"]


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_flag_that_there_is_not_is_an_error(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", command, "x.jsonl", "--min-rewrd", "1"],
        cwd=ROOT,
        text=True,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 2 and "--min-rewrd" in done.stderr


@pytest.mark.postgres
def test_episodes_move_from_sqlite_to_postgresql_unchanged(source: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    data_dir, _ = source
    exported(data_dir, tmp_path / "before.jsonl")
    with running_postgres() as server:
        target = ["--database-url", server.url]
        assert imported(tmp_path / "unused", tmp_path / "before.jsonl", *target) == 0
        assert imported(tmp_path / "unused", tmp_path / "before.jsonl", "--replace", *target) == 0
        exported(tmp_path / "unused", tmp_path / "after.jsonl", *target)
    assert (tmp_path / "after.jsonl").read_bytes() == (tmp_path / "before.jsonl").read_bytes()
