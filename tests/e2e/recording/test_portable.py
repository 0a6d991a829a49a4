"""Episodes move from one server to another without any change to what was recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.commands import import_
from server.store.database import Database
from server.store.tables import BatchRow, NodeRow, RunEpisodeRow, RunRow, TurnRow
from server.training.data.branches import samples
from tests.support.live import Live
from tests.support.portable import ASK, MORE, exported, imported
from tests.support.postgres import running_postgres


def samples_in(data_dir: Path, ids: list[str]) -> list[Any]:
    database = Database(f"sqlite:///{data_dir / 'upturn.db'}")
    with database.read() as session:
        made = samples(session, ids)
    database.close()
    return made


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_round_trip_through_another_server_preserves_bytes_and_training_samples(
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


def test_a_record_names_sampled_tokens_their_versions_and_the_turn_they_extend(
    source: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data_dir, made = source
    records = {record["id"]: record for record in exported(data_dir, tmp_path / "all.jsonl")}
    forked, swapped = records[made["forked"]], records[made["swapped"]]
    assert [turn["extends"] for turn in forked["turns"]] == [None, 0, 0, None]
    assert [turn["forked"] for turn in forked["turns"]] == [False, False, False, True]
    assert forked["turns"][1]["token_ids"] == [103, 7, 4, 5], "more than the new tokens"
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


def test_an_unrewarded_episode_has_no_reward_instead_of_0(source: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
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
def test_filters_select_the_exported_episodes(
    source: tuple[Path, dict[str, str]], tmp_path: Path, flags: list[str], kinds: list[str]
) -> None:
    data_dir, made = source
    records = exported(data_dir, tmp_path / "some.jsonl", *flags)
    assert [record["id"] for record in records] == [made[kind] for kind in kinds]


def test_existing_episodes_are_skipped_or_replaced_and_keep_their_lineage(
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
        session.execute(sa.update(TurnRow).values(answer={"role": "assistant", "content": "spoiled"}))
        session.execute(sa.delete(NodeRow))
    assert imported(data_dir, tmp_path / "all.jsonl", "--replace") == 0
    assert "0 episodes imported, 4 replaced, 1 skipped" in capsys.readouterr().out, (
        "an open episode belongs to its server"
    )
    after = exported(data_dir, tmp_path / "after.jsonl")
    assert after[1:] == before[1:]
    database.close()


def whole(turns: list[dict[str, Any]], turn: dict[str, Any], name: str) -> list[Any]:
    """Return a turn's list after the lists of all turns that it extends, as docs/data.md shows it."""
    before = next((t for t in turns if t["index"] == turn["extends"]), None)
    return (whole(turns, before, name) if before else []) + turn[name]


def damage(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def damaged(line: str) -> str:
        record = json.loads(line)
        change(record)
        return json.dumps(record)

    return damaged


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
def test_a_damaged_line_is_named_and_its_transaction_rolled_back(
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
    printed = capsys.readouterr()
    assert f"line {import_.CHUNK + 3}: " in printed.err and says in printed.err
    assert "Traceback" not in printed.err
    assert f"2 episodes imported, 0 replaced, {import_.CHUNK - 2} skipped" in printed.out
    stored = exported(tmp_path / "target", tmp_path / "stored.jsonl")
    assert stored == [json.loads(line) for line in lines[:2]]


def test_a_running_server_shows_imported_episodes_and_keeps_answering(
    live: Live, source: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data_dir, made = source
    exported(data_dir, tmp_path / "all.jsonl")
    target = live.parts.settings.data_dir
    assert imported(target, tmp_path / "all.jsonl") == 0
    live.openai().chat.completions.create(model="policy", messages=ASK)
    view = live.client.episode(made["forked"])
    (record, *_) = exported(target, tmp_path / "stored.jsonl")
    assert record["id"] == view.id
    for name in ("token_ids", "loss_mask", "logprobs"):
        assert [whole(record["turns"], turn, name) for turn in record["turns"]] == [
            getattr(turn, name) for turn in view.turns
        ]
    assert len(exported(target, tmp_path / "stored.jsonl")) == 6


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
