"""The index of episodes: what it finds, and that it follows the record whatever happens to its file."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from server.recording.reading import episode_list, episode_search
from server.recording.reading.index_file import PARTS, IndexFile, number_of
from server.recording.reading.index_rows import PART_TURNS
from server.recording.recorder import Span
from server.store.database import Database, id_at
from server.store.tables import BatchRow, EpisodeRow, RunEpisodeRow, RunRow
from tests.support.live import InProcess, in_process, script, settings_for, until
from tests.support.portable import Scribe
from tests.support.process import process
from upturn.wire import EpisodeOpen, RewardRequest


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[InProcess]:
    model = script(tmp_path / "script", "The answer is no.")
    async with in_process(settings_for(tmp_path / "data", model=str(model))) as server:
        yield server


async def page(server: InProcess, **filters: Any) -> dict[str, Any]:
    answer = await server.http.get("/v1/episodes", params={"limit": 100, **filters})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def found(server: InProcess, **filters: Any) -> list[str]:
    return [episode["id"] for episode in (await page(server, **filters))["data"]]


def only_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search fail that the index does not answer."""

    def listed(*_: Any) -> None:
        raise AssertionError("the record was searched")

    monkeypatch.setattr(episode_list, "_listed", listed)


def held(data: Path, *texts: str) -> list[str]:
    """Return the texts that the files of the index hold."""
    files = b"".join(path.read_bytes() for path in data.glob("index.db*"))
    return [text for text in texts if text.encode() in files]


async def test_words_are_found_in_their_order_whatever_their_case_accents_and_marks(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (await server.chat(ask('Grüß Gott, "100 %" of it; 東京タワーへ行く'))).episode
    other = (await server.chat(ask("Nothing else."))).episode
    only_index(monkeypatch)
    for text in ("grüß gott", "GRUß, Gott!", "100 %", "of it", "京タ", "東京タワー", '"100', "gott\0 100"):
        assert await found(server, text=text) == [said], text
    assert set(await found(server, text="the answer")) == {said, other}
    for text in ("gott grüß", "it nothing", "it the answer", "gruess", "行東", "answer is yes", "is no nothing"):
        assert await found(server, text=text) == [], text
    for text in ("?!", " ", "(", "\ue000", "\0"):
        refused = await server.http.get("/v1/episodes", params={"text": text})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text"), text
    for text in ('" OR "', "text:gott", "gott*", "NEAR(gott it)", "(it", "^gott", "a AND b", "'; drop table words"):
        assert await found(server, text=text) in ([], [said]), text


async def record(server: InProcess) -> dict[str, str]:
    """Record an episode of each kind, as the server does; return their ids."""
    scribe = Scribe(server.parts.database)
    made = {}
    won = await scribe.open(environment="textcraft", task="craft stick", owner_hash="o")
    await scribe.turn(won, ask("one"), [Span(3, [1, 2], [-0.1, -0.2])])
    await scribe.step(won, 0, 0.75)
    await scribe.episodes.end(won, "terminated", success=True)
    made["won"] = won.id
    lost = await scribe.open(environment="textcraft", task="craft bed", policy_version=4)
    await scribe.turn(lost, ask("two"), [Span(4, [1], [-0.1])], untrainable_reason="greedy")
    await scribe.step(lost, 0, -0.5)
    await scribe.episodes.end(lost, "truncated", success=False)
    made["lost"] = lost.id
    live = await scribe.open(owner_hash="o", details={"user": "ann"}, group_key="g")
    await scribe.turn(live, ask("three"), [Span(3, [1], [-0.1]), Span(4, [2], [-0.1])])
    await scribe.episodes.reward(live.id, RewardRequest(value=0.5, source="judge"))
    made["live"] = live.id

    def trained(session: sa.orm.Session) -> None:
        about = {"state": "done", "trigger": "t", "config": {}, "step": 1, "created_at": 1.0}
        session.add(RunRow(id="run_1", active_s=0.0, first_step=0, attempt=0, collapsed=False, **about))
        session.flush()
        for step, episode in ((0, won.id), (1, lost.id)):
            batch = {"run_id": "run_1", "step": step, "horizon": 5, "state": "trained", "stats": {}}
            session.add(BatchRow(id=f"batch_{step}", erased_episodes=0, created_at=1.0, **batch))
            session.flush()
            session.add(RunEpisodeRow(run_id="run_1", episode_id=episode, batch_id=f"batch_{step}", weight=1.0))

    await scribe.writer.write(trained)
    scribe.writer.close()
    return made


CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"task": "craft stick"}, ["won"]),
    ({"environment": "textcraft"}, ["lost", "won"]),
    ({"success": True}, ["won"]),
    ({"success": False}, ["lost"]),
    ({"live": True, "environment": "textcraft"}, ["lost", "won"]),
    ({"live": False}, []),
    ({"play": "none"}, []),
    ({"version": 4}, ["live", "lost"]),
    ({"version": 3}, ["won"]),
    ({"version": 9}, []),
    ({"untrainable": "greedy"}, ["lost"]),
    ({"untrainable": "any"}, ["lost"]),
    ({"untrainable": "any", "version": 3}, []),
    ({"text": "two"}, ["lost"]),
    ({"text": "answer", "version": 4}, ["live", "lost"]),
    ({"text": "answer", "success": True}, ["won"]),
    ({"text": "answer", "metadata": "user=ann"}, ["live"]),
    ({"text": "answer", "group": "g", "status": "open"}, ["live"]),
    ({"run": "run_1"}, ["lost", "won"]),
    ({"run": "run_1", "step": 1}, ["lost"]),
    ({"run": "run_1", "success": True}, ["won"]),
    ({"run": "none", "step": 1}, []),
    ({"run": "run_1", "step": 0, "text": "one"}, ["won"]),
]
WITH_REWARD: list[tuple[dict[str, Any], list[str]]] = [
    ({"reward_from": 0.5}, ["live", "won"]),
    ({"reward_to": 0.5}, ["live", "lost"]),
    ({"reward_from": 0.5, "reward_to": 0.5}, ["live"]),
    ({"reward_from": 0.6, "version": 3}, ["won"]),
    ({"reward_from": -1, "text": "answer"}, ["live", "lost", "won"]),
]


async def test_every_filter_finds_its_episodes_in_the_index_and_without_it(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await record(server)
    names = {episode: name for name, episode in made.items()}

    async def named(filters: dict[str, Any]) -> list[str]:
        return [names[episode] for episode in await found(server, **filters)]

    await server.parts.index.fresh()
    with monkeypatch.context() as patch:
        only_index(patch)
        for filters, expected in [*CASES, *WITH_REWARD]:
            if set(filters) - {"run", "step", "play"} and not {"run", "success"} <= set(filters):
                assert await named(filters) == expected, filters
    for filters, expected in CASES:
        assert await named(filters) == expected, filters
    await server.parts.index.close()
    for filters, expected in CASES:
        assert await named(filters) == expected, filters
    refused = await server.http.get("/v1/episodes", params={"reward_from": 0})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "index_unavailable")


async def test_a_list_shows_tokens_versions_and_reasons(server: InProcess) -> None:
    made = await record(server)
    await server.parts.index.fresh()
    rows = {row["id"]: row for row in (await page(server))["data"]}
    won, lost, live = (rows[made[name]] for name in ("won", "lost", "live"))
    assert (won["completion_tokens"], won["versions"], won["untrainable"]) == (2, [3], {})
    assert (lost["versions"], lost["untrainable"], lost["reward"]) == ([4], {"greedy": 1}, -0.5)
    assert (live["live"], live["versions"], live["turns"]) == (True, [4], 1)


async def test_what_was_just_recorded_is_found(server: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    only_index(monkeypatch)
    talk = ask("Number zero")
    for number in range(2 * PART_TURNS + 1):
        answer = await server.chat(talk)
        assert await found(server, text=f"number {number}" if number else "number zero") == [answer.episode]
        talk = [*talk, answer.message, *ask(f"Number {number + 1}")]
    assert await found(server, text="number zero") == [answer.episode]
    await server.http.post(f"/v1/episodes/{answer.episode}/rewards", json={"value": 0.25})
    assert await found(server, reward_from=0.25) == [answer.episode]
    opened = (await server.http.post("/v1/episodes", json=EpisodeOpen().model_dump())).json()["id"]
    await server.http.post(f"/v1/episodes/{opened}/close", json={})
    assert opened in await found(server, live=True, status="closed")


async def test_another_rule_of_a_source_changes_what_a_reward_finds(server: InProcess) -> None:
    said = (await server.chat(ask("Hi"))).episode
    await server.http.post(f"/v1/episodes/{said}/rewards", json={"value": 0.5, "source": "judge"})
    assert await found(server, reward_from=0.5) == [said]
    await server.http.put("/v1/reward-sources/judge", json={"weight": 0.1})
    assert await found(server, reward_from=0.5) == []
    await server.parts.index.fresh()
    assert await found(server, reward_to=0.06) == [said]


async def test_what_another_process_recorded_or_erased_is_noticed(server: InProcess, tmp_path: Path) -> None:
    kept, gone = [(await server.chat(ask(f"{word} word"))).episode for word in ("kept", "gone")]
    await server.parts.index.fresh()
    other = Database(server.parts.database.url)
    scribe = Scribe(other)
    added = await scribe.open(id="ep_imported")
    await scribe.turn(added, ask("imported word"), [Span(0, [1], [-0.1])])
    await scribe.turn(await scribe.episodes.get(kept), ask("later word"), [Span(0, [1], [-0.1])])
    await scribe.writer.write(lambda session: session.execute(sa.delete(EpisodeRow).where(EpisodeRow.id == gone)))
    scribe.writer.close()
    other.close()
    assert await found(server, text="gone word") == [], "an erased episode is shown"
    await server.parts.index.fresh()
    assert await found(server, text="imported word") == ["ep_imported"]
    assert await found(server, text="later word") == await found(server, text="kept word") == [kept]
    with server.parts.index.file.read() as index:
        assert index.execute("SELECT count(*) FROM words WHERE words MATCH 'gone'").fetchone() == (0,)


@pytest.mark.parametrize("harm", ["deleted", "damaged", "of another form", "cut", "empty", "a directory"])
async def test_a_file_that_is_not_the_index_is_replaced(tmp_path: Path, harm: str) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Yes.")))
    file = tmp_path / "data" / "index.db"
    async with in_process(settings) as server:
        said = (await server.chat(ask("Remember the milk"))).episode
        await server.parts.index.fresh()
    assert [path.name for path in file.parent.glob("index.db*")] == ["index.db"]
    content = file.read_bytes()
    if harm == "of another form":
        with sqlite3.connect(file) as index:
            index.execute("UPDATE meta SET value = '0'")
        index.close()
    elif harm in ("deleted", "a directory"):
        file.unlink()
    else:
        changed = {"damaged": content[:1000] + b"\x07" * (len(content) - 1000), "cut": content[: len(content) // 2]}
        file.write_bytes(changed.get(harm, b""))
    if harm == "a directory":
        file.mkdir()
    async with in_process(settings) as server:
        if harm == "a directory":
            assert (await server.chat(ask("Buy bread"))).episode != said
            assert await found(server, text="the milk") == [said], "the record is searched instead"
            assert (await server.http.get("/v1/stats")).status_code == 503
            problems = (await server.http.get("/v1/status")).json()["problems"]
            assert [problem["part"] for problem in problems] == ["index"]
            file.rmdir()
        await server.parts.index.fresh()
        assert await found(server, text="the milk") == [said]
        assert (await server.http.get("/v1/stats")).status_code == 200


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
async def test_a_file_that_is_lost_while_the_server_runs_is_built_anew(
    server: InProcess, tmp_path: Path, harm: str
) -> None:
    said = (await server.chat(ask("Remember the milk"))).episode
    await server.parts.index.fresh()
    for file in (tmp_path / "data").glob("index.db*"):
        file.unlink() if harm == "deleted" else file.write_bytes(b"\x07" * 20_000)
    later = (await server.chat(ask("Buy the milk"))).episode
    assert await found(server, text="the milk") == [later, said]
    await server.parts.index.fresh()
    assert await found(server, text="the milk") == [later, said]
    with server.parts.index.file.read() as index:
        assert index.execute("SELECT count(*) FROM episode").fetchone() == (2,)


async def test_a_change_whose_index_was_lost_with_its_process_is_found_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Yes.")))
    async with in_process(settings) as server:
        first = await server.chat(ask("Remember the milk"))
        await server.parts.index.fresh()
        await server.parts.index.close()
        talk = [*ask("Remember the milk"), first.message, *ask("And butter")]
        await server.chat(talk)
        await server.chat(ask("Bread"))
    async with in_process(settings) as server:
        await server.parts.index.fresh()
        only_index(monkeypatch)
        assert await found(server, text="and butter") == [first.episode]
        assert len(await found(server, text="yes")) == 2


def test_a_killed_server_finds_everything_after_its_start(tmp_path: Path) -> None:
    model, flags = script(tmp_path / "script", "Yes."), ("--engine.kind", "scripted")
    for number in range(2):
        with process(tmp_path / "data", model, *flags) as (server, url):
            body = {"model": "policy", "messages": ask(f"Remember the milk {number}")}
            assert httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
            server.kill()
            server.wait()
    with process(tmp_path / "data", model, *flags) as (_, url):

        def found() -> int:
            answer = httpx2.get(f"{url}/v1/episodes", params={"text": "the milk", "live": True}, timeout=60)
            return len(answer.json()["data"])

        until(lambda: found() == 2, "the index lacks an episode")


async def test_an_index_that_cannot_be_written_fails_no_request(server: InProcess, tmp_path: Path) -> None:
    said = (await server.chat(ask("Remember the milk"))).episode
    await server.parts.index.fresh()
    server.parts.index.file.delete()
    (tmp_path / "data" / "index.db").mkdir()
    talk = await server.chat(ask("Buy bread"))
    assert (await server.http.post(f"/v1/episodes/{talk.episode}/rewards", json={"value": 1})).status_code == 201
    assert (await server.http.post(f"/v1/episodes/{talk.episode}/close", json={})).status_code == 200
    assert (await server.http.delete(f"/v1/episodes/{said}")).status_code == 204
    assert await found(server, text="bread") == [talk.episode]
    (tmp_path / "data" / "index.db").rmdir()
    await server.parts.index.fresh()
    assert await found(server, reward_from=1) == [talk.episode]


async def test_an_erased_episode_leaves_nothing_in_the_index(server: InProcess, tmp_path: Path) -> None:
    words = ("quixotic", "zephyr", "marzipan")
    erased = (await server.chat(ask(f"{words[0]} {words[1]}"))).episode
    kept = (await server.chat(ask(words[2]))).episode
    await server.parts.index.fresh()
    assert held(tmp_path / "data", *words) == list(words), "this test would prove nothing"
    assert (await server.http.delete(f"/v1/episodes/{erased}")).status_code == 204
    assert held(tmp_path / "data", f"{words[0]} {words[1]}", erased) == []
    await server.parts.index.fresh()
    assert held(tmp_path / "data", *words) == [words[2]]
    assert await found(server, live=True) == [kept]


async def test_a_long_conversation_leaves_nothing_in_the_index_either(server: InProcess, tmp_path: Path) -> None:
    words, talk = [f"quixotic{number}" for number in range(40)], ask("quixotic0")
    for word in words[1:]:
        answer = await server.chat(talk)
        assert await found(server, text=talk[-1]["content"]) == [answer.episode]
        talk = [*talk, answer.message, *ask(word)]
    assert held(tmp_path / "data", *words), "this test would prove nothing"
    await server.http.delete(f"/v1/episodes/{answer.episode}")
    await server.parts.index.fresh()
    assert held(tmp_path / "data", *words, "quixotic") == []


async def test_nothing_read_before_an_erasure_is_written_after_it(
    server: InProcess,
) -> None:
    said = (await server.chat(ask("Forget the milk"))).episode
    for _ in range(20):
        server.parts.index.touch(said)
        reading = asyncio.create_task(server.parts.index.fresh())
        await asyncio.sleep(0)
        await server.parts.index.forget([said])
        await reading
    await server.http.delete(f"/v1/episodes/{said}")
    await server.parts.index.fresh()
    with server.parts.index.file.read() as index:
        assert index.execute("SELECT count(*) FROM episode").fetchone() == (0,)


async def test_pages_of_a_search_hold_each_episode_once(server: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    at = time.time()

    def opened(session: sa.orm.Session) -> None:
        for number in range(60):  # Of one millisecond; a third of them with the same slot.
            session.add(
                EpisodeRow(
                    id=f"{id_at('ep', at)}{number % 3:02x}{number:010x}", status="open", environment="textcraft",
                    task="t", seed=0, horizon=5, purpose="other", policy_version=0, trainable=True,
                    details={"third": number % 3}, opened_at=at,
                )
            )  # fmt: skip

    await server.parts.writer.write(opened)
    await server.parts.index.fresh()
    monkeypatch.setattr(episode_search, "BATCH", 7)
    monkeypatch.setattr(episode_search, "SEARCHED", 20)
    for filters in ({"task": "t"}, {"task": "t", "metadata": "third=1"}):
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            answer = await page(server, limit=8, **filters, **after)
            seen += [episode["id"] for episode in answer["data"]]
            if answer["next"] is None:
                break
            after = {"after": answer["next"]}
        assert len(seen) == len(set(seen)) == (60 if "metadata" not in filters else 20)


async def test_an_episode_of_any_id_and_time_has_a_place(server: InProcess) -> None:
    scribe = Scribe(server.parts.database)
    for name, at in (("ep_old", 0.0), ("ep_late", 1e300), ("ep_fffffffffffff", 5.0), ("ep_" + "f" * 24, 6.0)):
        episode = await scribe.open(id=name, opened_at=at)
        await scribe.turn(episode, ask("strange"), [Span(0, [1], [-0.1])])
    await scribe.writer.write(
        lambda session: session.execute(sa.update(EpisodeRow).where(EpisodeRow.id == "ep_old").values(opened_at=-5.0))
    )
    scribe.writer.close()
    await server.parts.index.fresh()
    assert len(await found(server, text="strange")) == 4
    assert number_of("ep_0198f0c2a6b1c3d4e5f60718") % PARTS == 0
    assert number_of("ep_0198f0c2a6b1ff") > number_of("ep_0198f0c2a6b1c3d4e5f60718") > number_of("ep_0198f0c2a6b0ff")


async def test_an_index_that_is_right_is_not_written_again(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Yes.")))
    async with in_process(settings) as server:
        for number in range(3):
            said = await server.chat(ask(f"Number {number}"))
        await server.http.post(f"/v1/episodes/{said.episode}/rewards", json={"value": math.pi})
        await server.parts.index.fresh()
        with server.parts.index.file.write() as index:
            before = index.total_changes
        await server.parts.index.fresh()
        with server.parts.index.file.write() as index:
            assert index.total_changes == before


def test_a_file_that_may_not_be_written_is_replaced(tmp_path: Path) -> None:
    file = IndexFile(tmp_path / "index.db")
    assert file.open()
    file.close()
    assert not file.open()
    file.close()
    (tmp_path / "index.db").chmod(0o400)
    file.open()
    with file.write() as index:
        index.execute("INSERT INTO meta VALUES ('a', 'b')")
    file.close()
    assert not list(tmp_path.glob("index.db-*"))
