"""Episodes as they leave one server and enter another: the format of `export` and `import`, and both ways.

One record is one episode. JSONL and Parquet hold the same fields with the same types; `docs/data.md` describes them for
readers. What has another shape from row to row (messages, metadata, an environment's info) is JSON in a string, so that
every row has one schema. A turn holds what was new in it, as the tables do, so that a long episode stays small. Keys,
owners, plays and lineage stay behind: they mean nothing to another server (`runs` only tells a reader). Files are the
business of `server/commands/export.py` and `import_.py`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy.orm import Session

from server.recording.tokens import pack_ids, pack_logprobs, unpack_ids, unpack_logprobs
from server.recording.transcript import nodes_of
from server.rewards.rules import read_rules
from server.store.tables import BatchRow, EpisodeRow, NodeRow, RewardRow, RunEpisodeRow, ScoreRow, StepRow, TurnRow

ARROW_TYPES = {str: "string", bool: "bool", int: "int32", float: "double"}


def _is_object(text: str) -> str:
    if not isinstance(_parsed(text), dict):
        raise ValueError("this has to be a JSON object in a string")
    return text


def _is_messages(text: str) -> str:
    value = _parsed(text)
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise ValueError("this has to be a JSON list of messages in a string")
    return text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("this JSON is nested too deeply") from error


Int = Annotated[int, Field(ge=-(2**31), lt=2**31)]
JsonObject = Annotated[str, AfterValidator(_is_object)]
JsonMessages = Annotated[str, AfterValidator(_is_messages)]


class Record(BaseModel):
    """Common behaviour: strict types; a column that somebody added is no error."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True)


class SpanRecord(Record):
    """Consecutive tokens of a turn: its prompt's, or those that one policy version sampled."""

    tokens: Annotated[Int, Field(ge=0)]
    sampled: bool
    policy_version: Int | None
    """Version that sampled them; None for a prompt or a demonstration."""


class TurnRecord(Record):
    """One chat request and its answer."""

    id: str
    index: Int
    choice: Int = 0
    extends: Int | None
    """Index of the turn whose end these tokens follow; None where the conversation begins anew."""
    forked: bool
    messages: JsonMessages
    """The request's messages that were new."""
    answer: JsonObject
    finish_reason: str
    temperature: float
    prompt_tokens: Int
    completion_tokens: Int
    policy_version: Int | None
    trainable: bool
    untrainable_reason: str | None
    token_ids: list[Int]
    """[T] tokens that are new in this turn: of its prompt, then sampled."""
    loss_mask: list[Int]
    """[T] 1 where sampled."""
    logprobs: list[float | None]
    """[T] natural logarithm; None where not sampled or not a finite number."""
    spans: list[SpanRecord]
    """The T tokens again, by who wrote them."""
    digest: str
    chain_hash: str | None
    duration_ms: float
    created_at: float

    @model_validator(mode="after")
    def spans_say_what_the_mask_says(self) -> TurnRecord:
        """The three lists have one length, which the spans divide."""
        if not len(self.token_ids) == len(self.loss_mask) == len(self.logprobs):
            raise ValueError(f"turn {self.index}: token_ids, loss_mask and logprobs differ in length")
        if not self.spans or self.loss_mask != [int(s.sampled) for s in self.spans for _ in range(s.tokens)]:
            raise ValueError(f"turn {self.index}: the spans do not agree with loss_mask")
        return self


class StepRecord(Record):
    """One environment transition."""

    index: Int
    action: str
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: JsonObject
    created_at: float


class RewardRecord(Record):
    """A reward that came from outside the environment."""

    id: str
    value: float
    source: str
    turn: Int | None
    key: str | None
    created_at: float


class TrainedRecord(Record):
    """A learner step that trained on the episode."""

    run_id: str
    step: Int
    policy_version: Int | None
    """The version that this step made."""
    advantage: float | None
    trained_tokens: float | None


class EpisodeRecord(Record):
    """One episode with everything recorded of it."""

    id: str
    status: Literal["open", "terminated", "truncated", "closed", "error"]
    error_class: str | None
    reason: str | None
    environment: str | None
    task: str | None
    seed: Int
    horizon: Int
    group: str | None
    purpose: str
    policy_version: Int
    trainable: bool
    success: bool | None
    metadata: JsonObject
    opened_at: float
    closed_at: float | None
    reward: float | None = None
    """Of the steps and, by the rules of their sources, of the rewards; None where nobody has rewarded it. Computed:
    not read back."""
    turns: list[TurnRecord]
    """In the order in which they were recorded."""
    steps: list[StepRecord]
    rewards: list[RewardRecord]
    runs: list[TrainedRecord] = []
    """Not read back."""

    @model_validator(mode="after")
    def turns_extend_earlier_ones(self) -> EpisodeRecord:
        """A turn follows one that was recorded before it, and with it is as long as it says."""
        lengths: dict[int | None, int] = {None: 0}
        for turn in self.turns:
            if turn.extends not in lengths or turn.index in lengths:
                raise ValueError(f"turn {turn.index} is there twice, or extends one that does not come before it")
            length = lengths[turn.extends] + len(turn.token_ids)
            if length != turn.prompt_tokens + turn.completion_tokens:
                raise ValueError(
                    f"turn {turn.index} and what it extends are {length} tokens, not "
                    f"{turn.prompt_tokens} + {turn.completion_tokens}"
                )
            lengths[turn.index] = length
        return self


def arrow_schema() -> Any:
    """Return the Parquet schema of a record. It needs pyarrow."""
    import pyarrow as pa

    def of(kind: Any) -> Any:
        if isinstance(kind, type) and issubclass(kind, Record):
            return pa.struct(fields(kind))
        if kind in ARROW_TYPES:
            return pa.type_for_alias(ARROW_TYPES[kind])
        if get_origin(kind) is list:
            return pa.list_(of(get_args(kind)[0]))
        if get_origin(kind) is Literal:
            return pa.string()
        return of(next(inner for inner in get_args(kind) if inner is not NoneType))

    def fields(record: type[Record]) -> list[Any]:
        return [pa.field(name, of(field.annotation)) for name, field in record.model_fields.items()]

    return pa.schema(fields(EpisodeRecord))


def read_records(session: Session, episode_ids: Sequence[str]) -> list[EpisodeRecord]:
    """Return the records of some episodes, in the order of their ids."""

    def rows(table: type[Any], *order: Any) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = defaultdict(list)
        for row in session.scalars(sa.select(table).where(table.episode_id.in_(episode_ids)).order_by(*order)):
            found[row.episode_id].append(row)
        return found

    turns, steps = rows(TurnRow, TurnRow.index), rows(StepRow, StepRow.index)
    rewards, nodes = rows(RewardRow, RewardRow.id), nodes_of(session, list(episode_ids))
    rules = read_rules(session)
    runs: dict[str, list[TrainedRecord]] = defaultdict(list)
    for lineage, batch in session.execute(
        sa.select(RunEpisodeRow, BatchRow)
        .join(BatchRow, BatchRow.id == RunEpisodeRow.batch_id)
        .where(RunEpisodeRow.episode_id.in_(episode_ids), BatchRow.state == "trained")
        .order_by(BatchRow.id)
    ):
        runs[lineage.episode_id].append(
            TrainedRecord(
                run_id=lineage.run_id,
                step=batch.step,
                policy_version=batch.policy_version,
                advantage=lineage.advantage,
                trained_tokens=lineage.weight,
            )
        )
    episodes = session.scalars(sa.select(EpisodeRow).where(EpisodeRow.id.in_(episode_ids)).order_by(EpisodeRow.id))
    return [
        EpisodeRecord(
            id=row.id,
            status=row.status,  # type: ignore[arg-type]
            error_class=row.error_class,
            reason=row.reason,
            environment=row.environment,
            task=row.task,
            seed=row.seed,
            horizon=row.horizon,
            group=row.group_key,
            purpose=row.purpose,
            policy_version=row.policy_version,
            trainable=row.trainable,
            success=row.success,
            metadata=_text(row.details),
            opened_at=row.opened_at,
            closed_at=row.closed_at,
            reward=rules.total((s.reward for s in steps[row.id]), ((r.source, r.value) for r in rewards[row.id])),
            turns=_turns(turns[row.id], nodes[row.id]),
            steps=[
                StepRecord(
                    index=s.index,
                    action=s.action,
                    observation=s.observation,
                    reward=s.reward,
                    terminated=s.terminated,
                    truncated=s.truncated,
                    info=_text(s.info),
                    created_at=s.created_at,
                )
                for s in steps[row.id]
            ],
            rewards=[
                RewardRecord(
                    id=r.id, value=r.value, source=r.source, turn=r.turn_index, key=r.key, created_at=r.created_at
                )
                for r in rewards[row.id]
            ],
            runs=runs[row.id],
        )
        for row in episodes
    ]


def erase_content(session: Session, episode_id: str) -> None:
    """Delete what a record replaces of an episode; its key, owner, play and lineage stay."""
    for table in (TurnRow, StepRow, RewardRow, ScoreRow):
        session.execute(sa.delete(table).where(table.episode_id == episode_id))


def write_record(session: Session, record: EpisodeRecord) -> None:
    """Store an episode with all its rows; ids are the record's own, save the nodes', which a database gives itself."""
    row = session.get(EpisodeRow, record.id) or EpisodeRow(id=record.id)
    for name in (
        "status",
        "error_class",
        "reason",
        "environment",
        "task",
        "seed",
        "horizon",
        "purpose",
        "policy_version",
        "trainable",
        "success",
        "opened_at",
        "closed_at",
    ):
        setattr(row, name, getattr(record, name))
    row.group_key, row.details = record.group, json.loads(record.metadata)
    session.add(row)
    session.flush()
    session.add_all(
        TurnRow(
            id=turn.id,
            episode_id=record.id,
            index=turn.index,
            choice=turn.choice,
            digest=turn.digest,
            messages=json.loads(turn.messages),
            answer=json.loads(turn.answer),
            finish_reason=turn.finish_reason,
            prompt_tokens=turn.prompt_tokens,
            completion_tokens=turn.completion_tokens,
            policy_version=turn.policy_version,
            temperature=turn.temperature,
            trainable=turn.trainable,
            untrainable_reason=turn.untrainable_reason,
            forked=turn.forked,
            duration_ms=turn.duration_ms,
            created_at=turn.created_at,
        )
        for turn in record.turns
    )
    session.flush()
    ends: dict[int | None, int | None] = {None: None}
    for turn in record.turns:
        ends[turn.index] = _write_nodes(session, record.id, turn, ends[turn.extends])
    session.add_all(
        StepRow(
            episode_id=record.id,
            index=s.index,
            action=s.action,
            observation=s.observation,
            reward=s.reward,
            terminated=s.terminated,
            truncated=s.truncated,
            info=json.loads(s.info),
            created_at=s.created_at,
        )
        for s in record.steps
    )
    session.add_all(
        RewardRow(
            id=r.id,
            episode_id=record.id,
            turn_index=r.turn,
            value=r.value,
            source=r.source,
            key=r.key,
            created_at=r.created_at,
        )
        for r in record.rewards
    )
    session.flush()


def _turns(turns: Iterable[TurnRow], nodes: Iterable[NodeRow]) -> list[TurnRecord]:
    """Return an episode's turns as they were recorded; `nodes` come in that order, a turn's own without a gap."""
    own: dict[str, list[NodeRow]] = defaultdict(list)
    for node in nodes:
        own[node.turn_id].append(node)
    rows = {turn.id: turn for turn in turns}
    ended: dict[int | None, int | None] = {None: None}
    made = []
    for turn_id, path in own.items():
        turn, sizes = rows[turn_id], [len(node.token_ids) // 4 for node in path]
        made.append(
            TurnRecord(
                id=turn.id,
                index=turn.index,
                choice=turn.choice,
                extends=ended[path[0].parent_id],
                forked=turn.forked,
                messages=_text(turn.messages),
                answer=_text(turn.answer),
                finish_reason=turn.finish_reason,
                temperature=turn.temperature,
                prompt_tokens=turn.prompt_tokens,
                completion_tokens=turn.completion_tokens,
                policy_version=turn.policy_version,
                trainable=turn.trainable,
                untrainable_reason=turn.untrainable_reason,
                token_ids=[token for node in path for token in unpack_ids(node.token_ids)],
                loss_mask=[int(node.sampled) for node, size in zip(path, sizes, strict=True) for _ in range(size)],
                logprobs=[x for node, size in zip(path, sizes, strict=True) for x in _known(node, size)],
                spans=[
                    SpanRecord(tokens=size, sampled=node.sampled, policy_version=node.policy_version)
                    for node, size in zip(path, sizes, strict=True)
                ],
                digest=turn.digest,
                chain_hash=path[-1].chain_hash,
                duration_ms=turn.duration_ms,
                created_at=turn.created_at,
            )
        )
        ended[path[-1].id] = turn.index
    return made


def _known(node: NodeRow, length: int) -> list[float | None]:
    """Return a node's logprobs, one per token; None for all where the engine gave another number of them."""
    known = unpack_logprobs(node.logprobs or b"")
    return [x if math.isfinite(x) else None for x in known] if len(known) == length else [None] * length


def _write_nodes(session: Session, episode_id: str, turn: TurnRecord, parent_id: int | None) -> int | None:
    """Store a turn's nodes; return the id of the last one."""
    at = 0
    for position, span in enumerate(turn.spans):
        known = turn.logprobs[at : at + span.tokens]
        parent_id = session.scalar(
            sa.insert(NodeRow).returning(NodeRow.id),
            {
                "episode_id": episode_id,
                "turn_id": turn.id,
                "parent_id": parent_id,
                "sampled": span.sampled,
                "token_ids": pack_ids(turn.token_ids[at : at + span.tokens]),
                "policy_version": span.policy_version,
                "logprobs": None
                if all(x is None for x in known)
                else pack_logprobs([math.nan if x is None else x for x in known]),
                "chain_hash": turn.chain_hash if position == len(turn.spans) - 1 else None,
            },
        )
        at += span.tokens
    return parent_id


def _text(value: Any) -> str:
    """Return JSON, readable where UTF-8 can hold it: half a surrogate pair, which JSON can carry, stays escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text
