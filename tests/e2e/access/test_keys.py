"""API keys over a real socket: scopes, ownership, limits, and revocation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import sqlalchemy as sa

from server.api.access.authentication import OPEN
from server.training.settings import LearnerSettings
from tests.support.keys import client, new_key
from tests.support.live import Live, script, serving, settings_for, until
from upturn.client import UpturnAPIError
from upturn.wire import EpisodeOpen, KeyCreate, RewardRequest, RunClaim, RunConfig, RunRequest

ROOT = Path(__file__).parents[3]
ASK = [{"role": "user", "content": "Hi"}]
CHAT = {"/v1/chat/completions", "/episodes/{episode_id}/v1/chat/completions"}
EPISODE = {
    "GET /v1/episodes/{episode_id}",
    "GET /v1/episodes/{episode_id}/trained",
    *(
        f"POST /v1/episodes/{{episode_id}}/{what}"
        for what in ("steps", "rewards", "feedback", "demonstrations", "close")
    ),
}
AGENT = {
    *EPISODE,
    *(f"POST {path}" for path in CHAT),
    "POST /v1/episodes",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "GET /v1/environments",
    "GET /v1/environments/{name}/tasks",
}
EVERYONE = {"GET /v1/keys/me"}
LEARNER = {
    "GET /v1/schedule",
    "GET /v1/stats",
    "GET /v1/status",
    "GET /v1/campaigns",
    "GET /v1/campaigns/{name}",
    "GET /v1/runs",
    "GET /v1/runs/{run_id}",
    "GET /v1/runs/{run_id}/steps",
    "POST /v1/runs/claim",
    "POST /v1/runs/release",
    "POST /v1/runs/{run_id}/heartbeat",
    "POST /v1/runs/{run_id}/end",
    "POST /v1/batches",
    "POST /v1/batches/{batch_id}/ack",
    "POST /v1/policies",
    "GET /v1/policies",
    "GET /v1/policies/{version}",
    "GET /v1/policies/{version}/lineage",
}
ADMIN = {
    "POST /v1/runs",
    *(f"POST /v1/runs/{{run_id}}/{what}" for what in ("pause", "resume", "cancel")),
    "GET /v1/schedule/triggers",
    "POST /v1/schedule/triggers",
    "DELETE /v1/schedule/triggers/{name}",
    "GET /v1/promotions",
    "GET /v1/shadow",
    "GET /v1/promotions/{number}",
    "POST /v1/policies/rollback",
    "POST /v1/policies/{version}/promote",
    "POST /v1/policies/{version}/pin",
    "DELETE /v1/policies/{version}/pin",
    "DELETE /v1/episodes/{episode_id}",
    "POST /v1/plays",
    "GET /v1/plays/{play_id}",
    "POST /v1/plays/{play_id}/cancel",
    "GET /v1/plays/{play_id}/events",
    "POST /v1/leaderboard",
    "GET /v1/leaderboard",
    "GET /v1/leaderboard/{entry_id}",
    "DELETE /v1/leaderboard/{entry_id}",
    "POST /v1/leaderboard/{entry_id}/end",
    "POST /v1/keys",
    "GET /v1/keys",
    "DELETE /v1/keys/{key_id}",
    "DELETE /v1/keys/{key_id}/episodes",
    "GET /v1/keys/{key_id}/trained",
    "GET /v1/reward-sources",
    "PUT /v1/reward-sources/{name}",
    "DELETE /v1/reward-sources/{name}",
    "GET /v1/scorers",
    "POST /v1/rehearsals",
    "GET /v1/rehearsals/{rehearsal_id}",
    "POST /v1/rehearsals/{rehearsal_id}/cancel",
}


def allowed(live: Live, key: str) -> set[str]:
    """Return every operation that a key's scopes permit."""
    found = set()
    for path, operations in live.app.openapi()["paths"].items():
        url = path.replace("{version}", "7").replace("{number}", "7")
        for name in ("episode_id", "run_id", "batch_id", "play_id", "key_id", "model", "rehearsal_id", "name"):
            url = url.replace(f"{{{name}}}", "none")
        for method in operations if path not in OPEN else ():
            answer = live.http.request(
                method.upper(), url, headers={"authorization": f"Bearer {key}"}, json={} if method == "post" else None
            )
            assert answer.status_code != 401 and answer.status_code < 500, answer.text
            if answer.status_code == 403:
                assert answer.json()["error"]["code"] == "insufficient_scope"
            else:
                found.add(f"{method.upper()} {path}")
    return found


def test_each_scope_may_call_its_own_operations_only(guarded: Live) -> None:
    every = {
        f"{method.upper()} {path}"
        for path, operations in guarded.app.openapi()["paths"].items()
        for method in operations
        if path not in OPEN
    }
    assert every >= AGENT | LEARNER | ADMIN
    assert allowed(guarded, new_key(guarded, "learner").key) == LEARNER | EVERYONE
    assert allowed(guarded, new_key(guarded, "metrics").key) == {"GET /metrics"} | EVERYONE
    agent = allowed(guarded, new_key(guarded, "agent").key)
    assert agent >= AGENT and not agent & (LEARNER | ADMIN)
    assert allowed(guarded, new_key(guarded, "agent", "learner").key) == agent | LEARNER
    opened = client(guarded, new_key(guarded, "admin").key).open_episode(EpisodeOpen())
    own = allowed(guarded, opened.key)
    assert own >= EPISODE and not own & ({*AGENT, *LEARNER, *ADMIN} - EPISODE - {f"POST {path}" for path in CHAT})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer up-wrong"},
        {"authorization": "Bearer ep-wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic up-wrong"},
        {"x-api-key": "up-wrong"},
        {"authorization": "Bearer \xe9"},
    ],
)
def test_a_missing_or_invalid_key_is_refused_before_the_body_is_read(guarded: Live, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/runs"),
        ("GET", "/v1/keys"),
        ("POST", "/episodes/ep_none/v1/chat/completions"),
        ("GET", "/v1/nothing"),
    ):
        answer = guarded.http.request(method, path, headers=raw, content=b"{ no json" if method == "POST" else None)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        guarded.openai(key="up-wrong").models.list()


def test_a_broken_database_is_not_reported_as_an_invalid_key(guarded: Live) -> None:
    key = new_key(guarded, "agent").key
    guarded.parts.writer.submit(lambda session: session.execute(sa.text("alter table api_key rename to lost"))).result()
    answer = guarded.http.get("/v1/models", headers={"x-api-key": key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_health_and_the_documentation_need_no_key(guarded: Live) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert guarded.http.get(path).status_code == 200


def test_either_header_may_carry_the_key(guarded: Live) -> None:
    key = new_key(guarded, "agent").key
    for headers in ({"authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"x-api-key": key}):
        assert guarded.http.get("/v1/models", headers=headers).status_code == 200


def test_episodes_of_other_agents_look_as_if_they_did_not_exist(guarded: Live) -> None:
    mine, other = (new_key(guarded, "agent").key for _ in range(2))
    opened = client(guarded, mine).open_episode(EpisodeOpen())
    answered = guarded.openai(key=mine).chat.completions.with_raw_response.create(model="policy", messages=ASK)
    found = answered.headers["x-episode-id"]
    for episode_id in (opened.id, found):
        assert client(guarded, mine).episode(episode_id).id == episode_id
        theirs = {"authorization": f"Bearer {other}"}
        chat = {"model": "policy", "messages": ASK}
        refusals = [
            guarded.http.get(f"/v1/episodes/{episode_id}", headers=theirs),
            guarded.http.get(f"/v1/episodes/{episode_id}/trained", headers=theirs),
            guarded.http.post(f"/v1/episodes/{episode_id}/steps", headers=theirs, json={"action": "x"}),
            guarded.http.post(f"/v1/episodes/{episode_id}/rewards", headers=theirs, json={"value": 1.0}),
            guarded.http.post(f"/v1/episodes/{episode_id}/close", headers=theirs, json={}),
            guarded.http.post(f"/episodes/{episode_id}/v1/chat/completions", headers=theirs, json=chat),
            guarded.http.post("/v1/chat/completions", headers={**theirs, "x-episode-id": episode_id}, json=chat),
        ]
        for refused in refusals:
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "episode_not_found")
            assert refused.json()["error"]["message"] == f"no episode {episode_id!r}"
    view = client(guarded, new_key(guarded, "admin").key).episode(opened.id)
    assert (view.status, view.turns, view.rewards) == ("open", [], [])


def test_two_agents_with_equal_messages_never_share_a_conversation(guarded: Live) -> None:
    ids = set()
    for key in (new_key(guarded, "agent").key, new_key(guarded, "agent").key):
        talk = [*ASK]
        for _ in range(2):
            raw = guarded.openai(key=key).chat.completions.with_raw_response.create(model="policy", messages=talk)
            ids.add((key, raw.headers["x-episode-id"]))
            talk += [
                {"role": "assistant", "content": raw.parse().choices[0].message.content},
                {"role": "user", "content": "More"},
            ]
    assert len(ids) == 2 and len({episode for _, episode in ids}) == 2


@pytest.mark.parametrize("required", [True, False])
def test_an_episodes_own_key_acts_on_that_episode_only(tmp_path: Path, required: bool) -> None:
    model = script(tmp_path / "script", "Hello there.")
    settings = settings_for(tmp_path / "data", model=str(model), keys="required" if required else "auto")
    with serving(settings) as live:
        opener = client(live, new_key(live, "agent").key)
        one, two = (opener.open_episode(EpisodeOpen()) for _ in range(2))
        live.openai(key=one.key).chat.completions.create(model="policy", messages=ASK)
        live.openai(key=one.key, base_url=one.base_url).chat.completions.create(model="policy", messages=ASK)
        for more in ({"base_url": two.base_url}, {"default_headers": {"x-episode-id": two.id}}):
            with pytest.raises(openai.NotFoundError):
                live.openai(key=one.key, **more).chat.completions.create(model="policy", messages=ASK)
        itself = client(live, one.key)
        for refused in (lambda: itself.episode(two.id), lambda: itself.close_episode(two.id)):
            with pytest.raises(UpturnAPIError, match="404 episode_not_found"):
                refused()
        for refused in (
            itself.environments,
            itself.runs,
            lambda: itself.reward(one.id, RewardRequest(value=1.0)),
            lambda: itself.erase_episode(one.id),
            lambda: itself.open_episode(EpisodeOpen()),
        ):
            with pytest.raises(UpturnAPIError, match="403 insufficient_scope"):
                refused()
        assert itself.close_episode(one.id).status == "closed"
        assert len(opener.episode(one.id).turns) == 2 and opener.episode(two.id).turns == []


def test_revoking_a_key_also_revokes_the_keys_of_its_episodes_at_once(guarded: Live) -> None:
    admin, made = client(guarded, new_key(guarded, "admin").key), new_key(guarded, "agent")
    agent = client(guarded, made.key)
    opened = agent.open_episode(EpisodeOpen())
    assert client(guarded, opened.key).episode(opened.id).id == opened.id
    admin.revoke_key(made.id)
    for gone in (agent, client(guarded, opened.key)):
        with pytest.raises(UpturnAPIError, match="401 invalid_api_key"):
            gone.episode(opened.id)
    listed = {key.id: key for key in admin.keys().data}
    assert listed[made.id].revoked_at is not None
    admin.revoke_key(made.id)
    assert {key.id: key for key in admin.keys().data} == listed
    with pytest.raises(UpturnAPIError, match="404 key_not_found"):
        admin.revoke_key("key_none")


def test_keys_are_created_by_api_and_shown_once(guarded: Live) -> None:
    admin = client(guarded, new_key(guarded, "admin").key)
    made = admin.create_key(KeyCreate(name="shop", scopes=["learner", "agent", "agent"], requests_per_minute=60))
    assert (made.scopes, made.requests_per_minute, made.max_concurrent) == (["agent", "learner"], 60, None)
    assert client(guarded, made.key).runs().data == []
    assert (
        made.key
        not in guarded.http.get("/v1/keys", headers={"authorization": f"Bearer {new_key(guarded, 'admin').key}"}).text
    )
    stored = b"".join(path.read_bytes() for path in guarded.parts.settings.data_dir.glob("upturn.db*"))
    assert made.key.encode() not in stored and b"shop" in stored
    headers = {"authorization": f"Bearer {new_key(guarded, 'admin').key}"}
    for wrong in (
        {"name": "", "scopes": ["agent"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "scopes": ["agent"], "max_concurrent": 0},
        {"name": "x"},
    ):
        assert guarded.http.post("/v1/keys", json=wrong, headers=headers).status_code == 400


def test_a_key_over_its_rate_limit_is_told_when_to_retry(guarded: Live) -> None:
    now = [0.0]
    guarded.parts.limits.clock = lambda: now[0]
    limited, free = (new_key(guarded, "agent", requests_per_minute=3).key, new_key(guarded, "agent").key)
    opened = client(guarded, limited).open_episode(EpisodeOpen())
    api = guarded.openai(key=limited)
    api.models.list()
    client(guarded, opened.key).episode(opened.id)  # An episode's key counts against the key that opened it.
    with pytest.raises(openai.RateLimitError) as refused:
        api.models.list()
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["retry-after"] == "20"
    with pytest.raises(UpturnAPIError, match="429 rate_limit_exceeded"):
        client(guarded, opened.key).episode(opened.id)
    guarded.openai(key=free).models.list()
    now[0] += 20
    api.models.list()


def test_a_stream_counts_against_the_limit_until_it_ends_or_its_client_disconnects(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "word " * 400, delay_s=0.02)
    with serving(settings_for(tmp_path / "data", model=str(model), keys="required")) as live:
        api = live.openai(key=new_key(live, "agent", max_concurrent=1).key)

        def free() -> bool:
            try:
                api.models.list()
            except openai.RateLimitError as error:
                assert error.response.headers["retry-after"] == "1"
                return False
            return True

        list(api.chat.completions.create(model="policy", messages=ASK, stream=True, max_tokens=5))
        until(free, "an ended stream still counts", 120)
        left = api.chat.completions.create(model="policy", messages=ASK, stream=True)
        next(iter(left))
        assert not free()
        left.close()
        until(free, "an abandoned stream still counts", 120)


def test_if_keys_are_optional_any_key_may_do_everything_and_still_owns_its_episodes(live: Live) -> None:
    raw = live.openai(key="whatever").chat.completions.with_raw_response.create(model="policy", messages=ASK)
    opened = client(live, "whatever").open_episode(EpisodeOpen())
    assert client(live, "another").episode(raw.headers["x-episode-id"]).turns
    assert client(live, "another").erase_episodes_of_key().episodes == 0
    assert client(live, "whatever").erase_episodes_of_key().episodes == 2
    with pytest.raises(UpturnAPIError, match="404"):
        live.client.episode(opened.id)
    assert live.http.get("/v1/models", headers={"authorization": "Bearer ep-wrong"}).status_code == 401


def test_the_key_of_the_servers_own_learner_appears_nowhere(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    settings = settings_for(
        tmp_path / "data", model=str(model), keys="required", learner=LearnerSettings(start=True, threads=1, restarts=0)
    )
    with serving(settings) as live:
        admin = client(live, new_key(live, "admin").key)
        run = admin.create_run(RunRequest(config=RunConfig(steps=1)))
        lines: set[bytes] = set()

        def claimed() -> bool:
            lines.update(line for line in command_lines() if run.id.encode() in line)
            return admin.run(run.id).learner is not None

        until(claimed, "the learner did not claim the run with its key", 120)
        assert lines and not any(b"up-" in line for line in lines)
        assert [key.scopes for key in admin.keys().data] == [["admin"]]
        until(
            lambda: admin.run(run.id).state != "running",
            "the run of a script, which cannot be trained, did not end",
            120,
        )
        with pytest.raises(UpturnAPIError, match="403"):
            client(live, new_key(live, "agent").key).claim_run(RunClaim(learner="x"))
    assert b"up-" not in b"".join(path.read_bytes() for path in (tmp_path / "data" / "logs").iterdir())


def command_lines() -> Iterator[bytes]:
    """Yield the command lines of all processes."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield entry.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
