"""Streamed text, joined, is the text of all ids, with every kind of tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from server.rendering.tokenizer import FileTokenizer, TextStream
from tests.support.small_tokenizers import KINDS


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileTokenizer]:
    made = {}
    for kind, make in KINDS.items():
        tokenizer, path = make(), tmp_path_factory.mktemp("tokenizers") / "tokenizer.json"
        tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
        tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
        tokenizer.save(str(path))
        made[kind] = FileTokenizer(path)
    return made


def streamed(tokenizer: FileTokenizer, pieces: list[list[int]]) -> str:
    stream = TextStream(tokenizer)
    return "".join([stream.push(piece) for piece in pieces]) + stream.finish()


def of_bytes(tokenizer: FileTokenizer, text: str) -> list[int]:
    return [token_id for byte in text.encode() if (token_id := tokenizer.id_of(f"<0x{byte:02X}>")) is not None]


def test_characters_of_single_bytes_are_streamed_whole(tokenizers: dict[str, FileTokenizer]) -> None:
    tokenizer = tokenizers["byte-fallback"]
    for text in ("😀😃😄", "\n", "日本\n語", "naïve"):
        assert streamed(tokenizer, [[i] for i in of_bytes(tokenizer, text)]) == text


def test_text_after_a_character_of_single_bytes_is_sent_at_once(tokenizers: dict[str, FileTokenizer]) -> None:
    tokenizer = tokenizers["byte-fallback"]
    stream, word = TextStream(tokenizer), tokenizer.id_of("▁the")
    assert word is not None
    assert [stream.push([i]) for i in of_bytes(tokenizer, "😀")] == [""] * 4
    assert stream.push([word]) == "😀 the"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_of_any_answer_add_up_to_the_text_of_all_ids(
    tokenizers: dict[str, FileTokenizer], kind: str, data: st.DataObject
) -> None:
    tokenizer = tokenizers[kind]
    text = st.text("aé日😀\n\ufffd", min_size=1, max_size=3).map(lambda text: of_bytes(tokenizer, text))
    ids = st.integers(0, tokenizer.size - 1).map(lambda token_id: [token_id])
    unknown = st.just(tokenizer.encode("\ufffd"))
    pieces = data.draw(st.lists(ids | text | unknown, max_size=24))
    whole = [token_id for piece in pieces for token_id in piece]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("server.rendering.tokenizer._MOST_PENDING", data.draw(st.sampled_from([4, 64])))
        assert streamed(tokenizer, pieces) == tokenizer.decode(whole)
        assert streamed(tokenizer, [[token_id] for token_id in whole]) == tokenizer.decode(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_replacement_characters_are_sent_while_they_are_sampled(
    tokenizers: dict[str, FileTokenizer], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, longest = tokenizers[kind], 0
    stream, ids = TextStream(tokenizer), tokenizer.encode("\ufffd" * 200)
    real = FileTokenizer.decode

    def decode(self: FileTokenizer, token_ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(token_ids))
        return real(self, token_ids)

    monkeypatch.setattr(FileTokenizer, "decode", decode)
    sent = "".join(stream.push([token_id]) for token_id in ids)
    assert longest < 100, "each token is decoded with few others"
    assert len(real(tokenizer, ids)) - len(sent) < 100
    assert sent + stream.finish() == real(tokenizer, ids)
