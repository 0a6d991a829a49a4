"""Deep search: answer a question by searching passages over several turns (Search-R1, arXiv 2503.09516).

Responsible for the prompt, judging, and a solver. `corpus.py` holds the passages, `index.py` finds them, `questions.py`
makes the questions, `reading.py` parses an answer's tags. The tags, three passages per search and the exact match are
Search-R1's and AgentGym's. Chosen by this project: the questions about the CIA World Factbook and their splits, and
that a wrong answer ends the episode too (AgentGym's server accepts any number of guesses).
"""

from __future__ import annotations

import random
import re
import string
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from env_adapters.protocol import Isolation, Reset, Transition, UnknownTask
from env_adapters.remote.connection import TIMEOUT_S, place
from env_adapters.search.corpus import INSTALL, Corpus, Factbook, JsonLines, has_factbook
from env_adapters.search.facts import folded
from env_adapters.search.index import Hit, Index, RemoteIndex, Retriever, build, cache_folder
from env_adapters.search.questions import Question, Support, factbook_questions, file_questions
from env_adapters.search.reading import ANSWER_CHARS, TOOLS, read_action, suggestion, text_of

COLLECTION = "a text collection"
PASSAGES = 3
SHOWN_CHARS = 800
"""Maximum length of a shown passage; the Factbook's passages are shorter."""
SEEN_WORDS = 1000
"""Words of the shown passages that are kept for the random player."""
INSTRUCTIONS = (
    "Answer the question. Each of your messages is one of these:\n"
    "<search>words</search> shows the {count} passages of {corpus} that fit best. Search for one thing at a time.\n"
    "<answer>a few words</answer> ends the episode. Give only the name, number or code, as the passages write it.\n"
    "You may think before it in <think>...</think>."
)
NOTHING_FOUND = "\nSearch for names and words as the question or a passage writes them."
INVALID = "Nothing was done. Write <search>words</search> to search, or <answer>a few words</answer> to answer."


def normalized(text: str) -> str:
    """Return SQuAD's normal form (lowercase, no punctuation or articles), without accents."""
    bare = "".join(c for c in folded(text.lower()) if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def f1(answer: str, reference: str) -> float:
    """Return SQuAD's F1 score of the words of two answers, 0 to 1."""
    one, two = normalized(answer).split(), normalized(reference).split()
    same = sum((Counter(one) & Counter(two)).values())
    return 2 * same / (len(one) + len(two)) if same else 0.0


def show(hits: Iterable[Hit]) -> str:
    """Return passages as the agent's observation."""
    lines = []
    for number, hit in enumerate(hits, 1):
        text = hit.passage.text
        cut = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
        lines.append(f"Doc {number} (Title: {hit.passage.title}) {cut}")
    return "<information>\n" + ("\n".join(lines) or "No passage has these words.") + "\n</information>"


class Inquiry:
    """One instance: a question and the progress toward its answer."""

    def __init__(self, spec: Search) -> None:
        self._spec = spec
        self._question: Question | None = None
        self._missing: list[Support] = []
        """Supports that no shown passage contains and whose query has not been searched."""
        self._seen: list[str] = []

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The seed has no effect."""
        question = self._spec.question(task)
        self._question, self._seen = question, question.text.split()
        self._missing = list(question.supports)
        system = INSTRUCTIONS.format(count=PASSAGES, corpus=self._spec.corpus)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": f"Question: {question.text}"}]
        return Reset(messages, {"question": question.text, "passages": len(question.supports)})

    def _asked(self) -> Question:
        if self._question is None:
            raise ValueError("this search episode is over or has not begun: reset it first")
        return self._question

    def step(self, text: str) -> Transition:
        """Search or answer, according to an answer's first tag.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        question = self._asked()
        action, words = read_action(text)
        if action == "search":
            hits = self._spec.retriever.search(words, PASSAGES)
            self._note(question, words, hits)
            return Transition(show(hits) + ("" if hits else NOTHING_FOUND), 0.0, False)
        if action == "answer":
            self._question = None
            guess = words[:ANSWER_CHARS]
            right = normalized(guess) in {normalized(answer) for answer in question.answers}
            best = max(f1(guess, answer) for answer in question.answers)
            return Transition("Correct." if right else "Wrong.", float(right), True, success=right, info={"f1": best})
        return Transition(INVALID + suggestion(text), 0.0, False, valid=False)

    def _note(self, question: Question, words: str, hits: list[Hit]) -> None:
        for hit in hits:
            self._seen = (self._seen + f"{hit.passage.title} {hit.passage.text}".split())[-SEEN_WORDS:]
        self._missing = [
            support
            for support in self._missing
            if normalized(support.query) != normalized(words) and not any(support.is_in(hit.passage) for hit in hits)
        ]

    def oracle(self) -> str:
        """Search for the needed passages that have not been shown, then answer."""
        question = self._asked()
        if self._missing:
            return f"<search>{self._missing[0].query}</search>"
        return f"<answer>{question.answers[0]}</answer>"

    def random(self, rng: random.Random) -> str:
        """Search for two words of the shown passages, or give an answer that is correct for some question."""
        if rng.random() < 0.2:
            return f"<answer>{rng.choice(self._spec.guesses)}</answer>"
        return f"<search>{rng.choice(self._seen)} {rng.choice(self._seen)}</search>"

    def close(self) -> None:
        """End the episode."""
        self._question = None


class Search:
    """All questions about one corpus."""

    isolation: Isolation = "thread"
    tools = TOOLS

    def __init__(
        self,
        name: str,
        corpus: str,
        retriever: Callable[[], Retriever],
        questions: Callable[[], list[Question]],
        *,
        needs_factbook: bool,
        step_timeout_s: float = 30.0,
    ) -> None:
        self.name, self.corpus, self.step_timeout_s = name, corpus, step_timeout_s
        self.description = f"Answer questions by searching {corpus}: several searches, then one answer."
        self._make_retriever, self._make_questions = retriever, questions
        self._needs_factbook = needs_factbook
        self._lock = threading.Lock()
        self._retriever: Retriever | None = None

    @cached_property
    def _questions(self) -> dict[str, Question]:
        return {} if self.missing() else {question.task: question for question in self._make_questions()}

    @cached_property
    def guesses(self) -> list[str]:
        """All answers that are correct for some question."""
        return sorted({answer for question in self._questions.values() for answer in question.answers})

    @property
    def retriever(self) -> Retriever:
        """The retriever; its index is built on first use, by one thread."""
        with self._lock:
            if self._retriever is None:
                self._retriever = self._make_retriever()
            return self._retriever

    def question(self, task: str) -> Question:
        """Return a task's question.

        Raises:
            UnknownTask: the task does not exist.
        """
        if task not in self._questions:
            example = next(iter(self._questions), "")
            raise UnknownTask(f"{self.name} has no task {task!r}; they are named like {example!r}")
        return self._questions[task]

    def missing(self) -> str | None:
        """Return the command that installs the Factbook, or None if it is installed or not needed."""
        return INSTALL if self._needs_factbook and not has_factbook() else None

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a tool call as a tag."""
        return text_of(name, arguments, self.name)

    def splits(self) -> list[str]:
        """Return the two disjoint splits. `test` has a fifth of the countries (of a file's questions), by a hash."""
        return ["train", "test"]

    def tasks(self, split: str) -> list[str]:
        """Return names such as `2/former-zaire/capital`: number of needed passages, clue, requested fact."""
        if split not in self.splits():
            raise UnknownTask(f"{self.name} has no split {split!r}; it has train and test")
        return [task for task, question in self._questions.items() if question.split == split]

    def make(self) -> Inquiry:
        """Make an instance. All instances share the index, which is built now if necessary.

        Raises:
            EnvironmentMissing: the Factbook is not installed.
        """
        _ = self.retriever
        return Inquiry(self)


def make_spec(argument: str = "", name: str = "search") -> Search:
    """Return the spec of a corpus; without an argument, of the Factbook.

    Args:
        argument: `CORPUS` or `CORPUS,QUESTIONS`: a JSON Lines file or the URL of a `/retrieve`, and a file of
            questions. The default questions are the ones about the Factbook, so the corpus must contain its passages.
        name: the environment's name.

    Raises:
        ValueError: the argument has another form.
    """
    source, _, asked = argument.partition(",")
    if argument and not source:
        raise ValueError("a search environment is search@CORPUS or search@CORPUS,QUESTIONS")
    questions = (lambda: file_questions(Path(asked))) if asked else factbook_questions
    if source.startswith(("http://", "https://")):
        where = place(source)
        return Search(
            name,
            COLLECTION,
            lambda: RemoteIndex(where),
            questions,
            needs_factbook=not asked,
            step_timeout_s=TIMEOUT_S + 20,
        )
    read: Corpus = JsonLines(Path(source)) if source else Factbook()
    return Search(
        name,
        COLLECTION if source else "the CIA World Factbook",
        lambda: Index(build(read, cache_folder())),
        questions,
        needs_factbook=not (source and asked),
    )
