"""The token channel: many answers over one connection, and what happens to them when it or vLLM fails."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from server.engines.vllm.address import Address
from server.engines.vllm.channel import TokenChannel
from server.engines.vllm.frames import Ask, Chunk, Failed, Frames, Stop
from server.errors import BadRequest, ContextTooLong, EngineError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")


class Peer:
    """The other end, as a test drives it."""

    def __init__(self, path: Path) -> None:
        self.address = Address("http://vllm", None, path)
        self.received: asyncio.Queue[Ask | Stop] = asyncio.Queue()
        self.frames: Frames
        self.failures = self.losses = 0
        self.channel = TokenChannel(self._failed, self._lost)

    def connected(self) -> Frames:
        self.frames = Frames(Ask | Stop, lambda messages: [*map(self.received.put_nowait, messages)], lambda: None)
        return self.frames

    def _failed(self) -> None:
        self.failures += 1

    def _lost(self) -> None:
        self.losses += 1

    def answer(self, *ids: int, whole: bool = False) -> Any:
        return self.channel.chunks("base", list(ids), {"max_tokens": 3}, whole)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder, "tokens"))
        server = await asyncio.get_running_loop().create_unix_server(peer.connected, str(peer.address.tokens))
        await peer.channel.open(peer.address)
        yield peer
        await peer.channel.close()
        server.close()


def flat(chunks: list[list[Chunk]]) -> list[int]:
    return [token for arrived in chunks for chunk in arrived for token in chunk.token_ids]


async def test_each_of_many_answers_gets_its_own_tokens_in_order(peer: Peer) -> None:
    readers = [asyncio.create_task(_read(peer.answer(number))) for number in range(50)]
    asks = [await peer.received.get() for _ in readers]
    assert len({ask.number for ask in asks}) == 50
    for part in range(3):
        for ask in reversed(asks):
            assert isinstance(ask, Ask) and ask.model == "base" and ask.sampling == {"max_tokens": 3}
            peer.frames.send(
                Chunk(ask.number, [10 * ask.prompt_ids[0] + part], [-0.5], None, "stop" if part == 2 else None)
            )
        await asyncio.sleep(0)
    for number, reader in enumerate(readers):
        assert flat(await reader) == [10 * number, 10 * number + 1, 10 * number + 2]
    assert peer.received.empty() and peer.failures == 0


async def test_chunks_that_arrived_together_are_passed_on_together(peer: Peer) -> None:
    async with aclosing(peer.answer(1)) as answer:
        reading = asyncio.create_task(anext(answer))
        ask = await peer.received.get()
        for token in range(5):
            peer.frames.send(Chunk(ask.number, [token], [0.0]))
        assert [chunk.token_ids for chunk in await reading] == [[0], [1], [2], [3], [4]]


async def test_an_answer_that_nobody_needs_is_stopped_and_an_ended_one_is_not(peer: Peer) -> None:
    async with aclosing(peer.answer(1)) as answer:
        reading = asyncio.create_task(anext(answer))
        unneeded = await peer.received.get()
        peer.frames.send(Chunk(unneeded.number, [1], [0.0]))
        await reading
    stop = await peer.received.get()
    assert isinstance(stop, Stop) and stop.number == unneeded.number
    peer.frames.send(Chunk(unneeded.number, [2], [0.0]))  # On its way when the stop arrived.
    reading = asyncio.create_task(_read(peer.answer(2)))
    ended = await peer.received.get()
    peer.frames.send(Chunk(ended.number, [3], [0.0], None, "stop", [("1", 0, 1)]))
    (chunks,) = await reading
    assert [chunk.token_ids for chunk in chunks] == [[3]] and chunks[0].versions == [("1", 0, 1)]
    await asyncio.sleep(0.01)
    assert peer.received.empty()


async def test_a_reader_that_is_canceled_while_it_waits_stops_its_answer(peer: Peer) -> None:
    reading = asyncio.create_task(_read(peer.answer(1)))
    ask = await peer.received.get()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    stop = await peer.received.get()
    assert isinstance(stop, Stop) and stop.number == ask.number


@pytest.mark.parametrize(
    ("status", "message", "kind", "failures"),
    [
        (400, "stop cannot contain", BadRequest, 0),
        (400, "exceeds the model's maximum context length", ContextTooLong, 0),
        (500, "the engine failed", EngineError, 1),
    ],
)
async def test_a_failed_answer_raises_its_error_and_only_the_engines_own_may_mean_that_it_is_gone(
    peer: Peer, status: int, message: str, kind: type[Exception], failures: int
) -> None:
    reading = asyncio.create_task(_read(peer.answer(1)))
    ask = await peer.received.get()
    peer.frames.send(Failed(ask.number, status, message))
    with pytest.raises(kind, match=message):
        await reading
    assert peer.failures == failures
    await asyncio.sleep(0.01)
    assert peer.received.empty()


async def test_a_lost_connection_fails_all_answers_and_the_next_until_it_is_open_again(peer: Peer) -> None:
    readers = [asyncio.create_task(_read(peer.answer(number))) for number in range(3)]
    for _ in readers:
        await peer.received.get()
    peer.frames.close()
    for error in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(error, EngineError) and error.retry_after_s is not None
    assert (peer.failures, peer.losses) == (0, 1)
    with pytest.raises(EngineError, match="lost"):
        await _read(peer.answer(4))
    await peer.channel.open(peer.address)
    reading = asyncio.create_task(_read(peer.answer(5)))
    ask = await peer.received.get()
    peer.frames.send(Chunk(ask.number, [6], [0.0], None, "stop"))
    assert flat(await reading) == [6]


async def test_closing_fails_the_answers_in_progress_and_reports_nothing(peer: Peer) -> None:
    reading = asyncio.create_task(_read(peer.answer(1)))
    await peer.received.get()
    await peer.channel.close()
    with pytest.raises(EngineError):
        await reading
    await asyncio.sleep(0.01)
    assert (peer.failures, peer.losses) == (0, 0)


@pytest.mark.parametrize("wrong", [{"seed": 2**70}, {"stop": ["\ud800"]}, {"stop": object()}])
async def test_a_parameter_that_cannot_be_sent_is_refused_and_harms_no_other_answer(
    peer: Peer, wrong: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest, match="sampling parameter"):
        await _read(peer.channel.chunks("base", [1], wrong, False))
    reading = asyncio.create_task(_read(peer.answer(2)))
    ask = await peer.received.get()
    assert isinstance(ask, Ask) and ask.prompt_ids == [2]
    peer.frames.send(Chunk(ask.number, [3], [0.0], None, "stop"))
    assert flat(await reading) == [3]


async def test_where_nobody_listens_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="nobody"):
        await TokenChannel(lambda: None, lambda: None).open(Address("http://vllm", None, tmp_path / "nobody"))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_frames_may_arrive_in_parts_of_any_size(size: int) -> None:
    sent: list[bytes] = []
    received: list[Any] = []

    class Wire(asyncio.Transport):
        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes | bytearray | memoryview) -> None:
            sent.append(bytes(data))

    sender = Frames(Ask | Stop, lambda _: None, lambda: None)
    sender.connection_made(Wire())
    messages = [Chunk(n, list(range(n)), [-1.5] * n, [{7: -1.5, 300_000: -2.0}] * n, None) for n in range(6)]
    messages += [Failed(9, 400, "ä" * 300)]
    for message in messages:
        sender.send(message)
    await asyncio.sleep(0)
    (together,) = sent  # One write for all of them.
    receiver = Frames(Chunk | Failed, received.extend, lambda: None)
    for first in range(0, len(together), size):
        receiver.data_received(together[first : first + size])
    assert received == messages


async def _read(answer: Any) -> list[list[Chunk]]:
    return [chunks async for chunks in answer]
