"""What is stored of tokens, byte for byte, and what the hash of a conversation ignores."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from server.recording.portable.from_rows import _json
from server.recording.tokens import (
    chain_hash,
    chain_hashes,
    digest,
    pack_ids,
    pack_logprobs,
    unpack_ids,
    unpack_logprobs,
)


def test_ids_and_logprobs_are_stored_in_little_endian_order_of_four_bytes() -> None:
    ids, logprobs = [0, 1, 258, 2**31 - 1], [-0.5, 0.0, -math.inf, -123.25]
    assert pack_ids(ids) == struct.pack("<4i", *ids) and unpack_ids(pack_ids(ids)) == ids
    assert pack_logprobs(logprobs) == struct.pack("<4f", *logprobs)
    assert unpack_logprobs(pack_logprobs(logprobs)) == logprobs
    assert unpack_ids(b"") == unpack_logprobs(b"") == []


def test_a_digest_depends_on_the_values_and_not_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": "é"}) == digest({"b": "é", "a": 1})
    assert len({digest(one) for one in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1], [1, 2], [2, 1])}) == 7
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": math.nan})


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("id", "x", True),
        ("refusal", "no", True),
        ("reasoning_content", "hm", True),
        ("tool_calls", [], True),
        ("name", None, True),
        ("name", "Ada", True),
        ("content", " Yes.\n", True),
        ("content", [{"type": "text", "text": "Y"}, {"type": "text", "text": "es."}], True),
        ("content", "yes.", False),
        ("role", "user", False),
        ("tool_calls", [{"function": {"name": "look", "arguments": "{}"}}], False),
    ],
)
def test_the_hash_of_an_answer_ignores_what_sdks_change(field: str, value: Any, same: bool) -> None:
    said = {"role": "assistant", "content": "Yes."}
    assert (chain_hash("", said) == chain_hash("", {**said, field: value})) is same


def test_white_space_of_other_messages_and_arguments_that_are_not_json_count() -> None:
    asked = {"role": "user", "content": "Hi"}
    assert chain_hash("", asked) != chain_hash("", {**asked, "content": "Hi "})

    def calling(arguments: Any) -> str:
        return chain_hash(
            "", {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
        )

    assert calling('{"a": 1}') == calling('{ "a":1 }') == calling({"a": 1})
    assert len({calling(one) for one in ('{"a": 1}', '{"a": 2}', "{", "{ ", "[" * 100_000, "[" * 100_001)}) == 6


def test_each_message_has_a_hash_that_covers_the_ones_before_and_the_tools() -> None:
    talk = [{"role": "user", "content": str(number)} for number in range(3)]
    hashes = chain_hashes(talk)
    assert hashes[:2] == chain_hashes(talk[:2]) and len(set(hashes)) == 3
    assert chain_hashes(talk[1:])[-1] != hashes[-1]
    assert chain_hashes(talk, [{"a": 1}])[0] != hashes[0] != chain_hashes(talk, [{}])[0]


def test_exported_json_is_readable_and_survives_a_lone_surrogate() -> None:
    assert _json({"a": "é"}) == '{"a":"é"}'
    assert _json({"a": "\ud800é"}) == '{"a":"\\ud800\\u00e9"}'


def test_the_hashes_of_recorded_conversations_stay_the_same() -> None:
    asked, called = {"role": "user", "content": "Où ?"}, {"function": {"name": "look", "arguments": '{"à": 1}'}}
    hashes = chain_hashes([asked, {"role": "assistant", "content": None, "tool_calls": [called]}])
    assert hashes == ["b24c7cc20c30448ff402497da7c0e9c6", "2cadca6e73c35929a66a6b66c1b04e47"]
