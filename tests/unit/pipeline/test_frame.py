"""Frames of spill segments: what was written comes back, and damage costs what it hit and nothing else."""

from __future__ import annotations

import io
import random

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.pipeline.frame import ENDED, MARK, OPEN, SEAL, Frame, FrameReader, encode_frame


def segment(payloads: list[bytes], *, sealed: bool = True) -> tuple[bytes, list[int]]:
    """Return the bytes of a segment of ended spans, and where each frame begins."""
    frames = [encode_frame(Frame(ENDED, place, place, payload)) for place, payload in enumerate(payloads)]
    if sealed:
        frames.append(encode_frame(Frame(SEAL, len(payloads), len(payloads), b"")))
    starts = [sum(map(len, frames[:place])) for place in range(len(frames))]
    return b"".join(frames), starts


def read(content: bytes) -> tuple[list[bytes], FrameReader]:
    """Return the payloads that can be read, and the reader with its counts."""
    reader = FrameReader(io.BytesIO(content))
    return [frame.payload for frame in reader], reader


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_undamaged_frames_come_back(payloads: list[bytes]) -> None:
    """Every payload is read as it was written, whatever bytes it holds."""
    content, _ = segment(payloads)
    found, reader = read(content)
    assert found == payloads
    assert reader.is_sealed
    assert not reader.is_torn
    assert reader.damaged == reader.damaged_ended == 0


def test_a_payload_that_looks_like_a_frame_is_data() -> None:
    """A frame inside a payload is not mistaken for one, also behind damage."""
    inner = encode_frame(Frame(OPEN, 0, 0, b"inner"))
    content, starts = segment([b"first", MARK + b"x", b"ab" + MARK * 3, b"last"])
    assert read(content)[0] == [b"first", MARK + b"x", b"ab" + MARK * 3, b"last"]
    damaged = bytearray(content)
    damaged[starts[0] + 5] ^= 1
    assert read(bytes(damaged))[0] == [MARK + b"x", b"ab" + MARK * 3, b"last"]
    assert read(segment([inner])[0])[0] == [inner]


def test_one_flipped_bit_costs_at_most_the_record_that_it_hit() -> None:
    """1,000 flips at random places: all other records are read, and the loss is counted exactly."""
    seed = random.Random(7)
    payloads = [bytes([place]) * seed.randrange(1, 400) for place in range(40)]
    content, starts = segment(payloads)
    for _ in range(1_000):
        place = seed.randrange(len(content))
        damaged = bytearray(content)
        damaged[place] ^= 1 << seed.randrange(8)
        hit = max(number for number, start in enumerate(starts) if start <= place)
        found, reader = read(bytes(damaged))
        assert found == [payload for number, payload in enumerate(payloads) if number != hit]
        if hit < len(payloads):
            assert reader.damaged == reader.damaged_ended == 1
        else:
            assert reader.damaged == 0
            assert reader.is_torn


def test_a_tail_that_is_cut_at_any_byte_costs_the_last_record_only() -> None:
    """A write that was interrupted anywhere leaves all records before it readable."""
    payloads = [b"one", b"two", b"three" * 20]
    content, starts = segment(payloads, sealed=False)
    for end in range(starts[2], len(content)):
        found, reader = read(content[:end])
        assert found == payloads[:2]
        assert reader.is_torn == (end > starts[2])
        assert not reader.is_sealed


@given(st.binary(max_size=2_000))
def test_garbage_is_no_frame(content: bytes) -> None:
    """Whatever the file holds, reading ends and raises nothing."""
    found, reader = read(content)
    assert found == []
    assert reader.is_torn == bool(content)


def test_damage_larger_than_a_block_is_stepped_over() -> None:
    """A hole of 300 KB between two records costs what was in it."""
    content, starts = segment([b"a", b"b" * 300_000, b"c"])
    damaged = bytearray(content)
    damaged[starts[1] : starts[2]] = bytes(starts[2] - starts[1])
    found, reader = read(bytes(damaged))
    assert found == [b"a", b"c"]
    assert reader.damaged_ended == 1
