"""Deep search: its index, and users' own corpora and questions."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from env_adapters.protocol import EnvironmentFailure
from env_adapters.search.corpus import JsonLines
from env_adapters.search.index import Index, build
from env_adapters.search.spec import Search, make_spec
from tests.support.environments.searching import EXAMPLE, begun, digest, solve

pytestmark = pytest.mark.usefixtures("cache")


def test_many_threads_can_search_and_build_at_once(tmp_path: Path, spec: Search) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"contents": f"Town {n}\nIt has {n} houses."}) + "\n" for n in range(300)))
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: build(JsonLines(corpus), tmp_path / "index"), range(8)))
        assert len(set(paths)) == 1 and [path.name for path in (tmp_path / "index").iterdir()] == [paths[0].name]
        index = Index(paths[0])
        found = list(pool.map(lambda n: index.search(f"town with {n} houses", 1)[0].passage.title, range(300)))
        assert found == [f"Town {n}" for n in range(300)]
        assert len({*pool.map(lambda _: digest(spec), range(4))}) == 1


def test_an_index_is_rebuilt_when_its_corpus_changes_and_never_visible_half_built(tmp_path: Path) -> None:
    corpus, folder = tmp_path / "corpus.jsonl", tmp_path / "index"
    corpus.write_text('{"contents": "One\\nfirst"}\n')
    old = build(JsonLines(corpus), folder)
    corpus.write_text('{"contents": "One\\nfirst"}\n\n{"contents": "\\"Two\\"\\nsecond"}\n{"contents": "no title"}\n')
    new = build(JsonLines(corpus), folder)
    assert old != new
    assert [hit.passage.title for hit in Index(new).search("second", 3)] == ["Two"]
    assert [(hit.passage.title, hit.passage.text) for hit in Index(new).search("title", 3)] == [("", "no title")]
    corpus.write_text('{"contents": "One\\nfirst"}\nnonsense\n')
    with pytest.raises(EnvironmentFailure, match="line 2"):
        build(JsonLines(corpus), folder)
    assert {path.name for path in folder.iterdir()} == {old.name, new.name}


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "' OR 1=1 --",
        "title:capital",
        "NEAR(a b)",
        "* ^ + - ( ) { }",
        "AND OR NOT",
        "",
        "the of",
        "\x00",
        "\ud800",
        "a" * 10_000,
        "é " * 5000,
        "²½",
        "東京 مصر",
        "🏔",
    ],
)
def test_no_query_breaks_the_index(spec: Search, query: str) -> None:
    step = begun(spec, EXAMPLE).step(f"<search>{query}</search>")
    assert not step.terminated and step.reward == 0.0


def test_common_words_have_results_too(spec: Search) -> None:
    for query in ("population", "population of the country", "total land area of the world", "government"):
        assert "Doc 3" in begun(spec, EXAMPLE).step(f"<search>{query}</search>").observation


def test_a_broken_index_is_a_failure_and_not_an_observation(tmp_path: Path) -> None:
    (tmp_path / "broken.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(EnvironmentFailure, match="index failed"):
        Index(tmp_path / "broken.sqlite3").search("anything", 3)
    sqlite3.connect(tmp_path / "empty.sqlite3").close()
    with pytest.raises(EnvironmentFailure, match="index failed"):
        Index(tmp_path / "empty.sqlite3").search("anything", 3)


def write_own(folder: Path) -> str:
    """Write a user's corpus and questions; return the argument that names both."""
    texts = [("Ada", "Ada keeps bees in Lund."), ("Lund", "Lund is a town in Skane."), ("Bo", "Bo paints." * 200)]
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "contents": f'"{t}"\n{x}'}) + "\n" for n, (t, x) in enumerate(texts))
    )
    (folder / "questions.jsonl").write_text(
        "".join(
            json.dumps(question) + "\n"
            for question in (
                {"id": "nq_1", "question": "What does Ada keep?", "golden_answers": ["bees", "honeybees"]},
                {"id": "nq_2", "question": "xyzzy?", "golden_answers": ["nothing"]},
                *({"question": f"Where is Lund, take {n}?", "golden_answers": ["Skane"]} for n in range(40)),
            )
        )
    )
    return f"{folder / 'corpus.jsonl'},{folder / 'questions.jsonl'}"


def test_questions_about_a_users_own_corpus_can_be_played(tmp_path: Path) -> None:
    own = make_spec(write_own(tmp_path), name="own")
    train, test = own.tasks("train"), own.tasks("test")
    assert own.name == "own" and not set(train) & set(test) and len(train) + len(test) == 42 and len(test) > 3
    for task in (*train, *test):
        assert [step.reward for step in solve(begun(own, task))] == [0.0, 1.0]
    env = begun(own, "nq_1")
    assert "Doc 1 (Title: Ada) Ada keeps bees" in env.step("<search>who keeps bees</search>").observation
    assert len(env.step("<search>Bo</search>").observation) < 1000
    assert env.step("<answer>Honeybees!</answer>").success is True


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"question": "a"}',
        '{"question": "a", "golden_answers": []}',
        '{"question": 1, "golden_answers": ["a"]}',
        '{"id": 3, "question": "a", "golden_answers": ["a"]}',
        "{",
        '{"question": " ", "golden_answers": ["a"]}',
    ],
)
def test_a_malformed_question_is_a_failure_that_names_the_line(tmp_path: Path, line: str) -> None:
    argument = write_own(tmp_path)
    (tmp_path / "questions.jsonl").write_text('{"question": "a", "golden_answers": ["b"]}\n' + line)
    with pytest.raises(EnvironmentFailure, match="line 2"):
        make_spec(argument).tasks("train")


def test_a_missing_corpus_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match=r"nowhere\.jsonl"):
        make_spec(str(tmp_path / "nowhere.jsonl")).make()
    with pytest.raises(ValueError, match="CORPUS"):
        make_spec(",questions.jsonl")
