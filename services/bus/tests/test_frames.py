"""The NATS client protocol: what is written is read again, however it arrives; what is no frame is a ProtocolError."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.bus.frames import (
    CONTROL_LINE_BYTES,
    Connect,
    Err,
    Frame,
    FrameParser,
    HMsg,
    HPub,
    Info,
    Msg,
    Ok,
    PayloadTooLargeError,
    Ping,
    Pong,
    ProtocolError,
    Pub,
    Source,
    Sub,
    Unsub,
    encode,
)

LIMIT_BYTES = 512

fields = st.from_regex(r"[!-~]{1,30}", fullmatch=True)
replies = st.just("") | fields
payloads = st.binary(max_size=100)
options = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=8), max_size=4
)
texts = st.from_regex(r"([!-&(-~]([ -&(-~]{0,20}[!-&(-~])?)?", fullmatch=True)

client_frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Connect, options),
    st.builds(Pub, fields, payloads, replies),
    st.builds(HPub, fields, payloads, payloads, replies),
    st.builds(Sub, fields, fields, replies),
    st.builds(Unsub, fields, st.none() | st.integers(0, 10**8)),
    st.sampled_from([Ping(), Pong()]),
)
server_frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Info, options),
    st.builds(Msg, fields, fields, payloads, replies),
    st.builds(HMsg, fields, fields, payloads, payloads, replies),
    st.builds(Err, texts),
    st.sampled_from([Ping(), Pong(), Ok()]),
)
streams = st.one_of(
    st.tuples(st.just(Source.CLIENT), st.lists(client_frames, max_size=8)),
    st.tuples(st.just(Source.SERVER), st.lists(server_frames, max_size=8)),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def read(source: Source, parts: list[bytes]) -> tuple[list[Frame], bool]:
    """The frames of a stream that arrives in `parts`, and whether it broke."""
    parser = FrameParser(source, LIMIT_BYTES)
    frames: list[Frame] = []
    for part in parts:
        try:
            frames += parser.feed(part)
        except ProtocolError as error:
            return frames + list(error.frames), True
    return frames, False


@given(streams, st.lists(st.integers(0, 10**4), max_size=12))
def test_any_split_of_a_stream_gives_its_frames(stream: tuple[Source, list[Frame]], cuts: list[int]) -> None:
    source, frames = stream
    data = b"".join(encode(frame) for frame in frames)
    assert read(source, pieces(data, cuts)) == (frames, False)


@given(st.sampled_from(Source), st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_garbage_raises_protocol_errors_only_and_the_same_for_any_split(
    source: Source, data: bytes, cuts: list[int]
) -> None:
    assert read(source, pieces(data, cuts)) == read(source, [data])


@given(streams, st.integers(0, 10**4), st.integers(0, 255), st.lists(st.integers(0, 10**4), max_size=6))
def test_a_damaged_stream_breaks_or_gives_frames_but_never_raises_anything_else(
    stream: tuple[Source, list[Frame]], place: int, value: int, cuts: list[int]
) -> None:
    source, frames = stream
    data = bytearray(b"".join(encode(frame) for frame in frames) + b"PING\r\n")
    data[place % len(data)] = value
    assert read(source, pieces(bytes(data), cuts)) == read(source, [bytes(data)])


def test_what_was_read_before_the_fault_is_not_lost() -> None:
    with pytest.raises(ProtocolError) as raised:
        FrameParser(Source.CLIENT, LIMIT_BYTES).feed(b"PING\r\nNONSENSE\r\nPING\r\n")
    assert raised.value.frames == (Ping(),)


def test_a_broken_stream_stays_broken() -> None:
    parser = FrameParser(Source.CLIENT, LIMIT_BYTES)
    for _ in range(2):
        with pytest.raises(ProtocolError):
            parser.feed(b"NONSENSE\r\n")


@pytest.mark.parametrize("end", [b"", b"x" * 10_000])
def test_a_control_line_without_end_is_refused_before_it_is_kept(end: bytes) -> None:
    with pytest.raises(ProtocolError, match="control line"):
        FrameParser(Source.CLIENT, LIMIT_BYTES).feed(b"P" * (CONTROL_LINE_BYTES + 2) + end)


@pytest.mark.parametrize("line", [b"PUB a 513\r\n", b"HPUB a 1 513\r\n"])
def test_a_payload_beyond_the_limit_is_refused_by_its_length(line: bytes) -> None:
    with pytest.raises(PayloadTooLargeError):
        FrameParser(Source.CLIENT, LIMIT_BYTES).feed(line)


@pytest.mark.parametrize(
    "line",
    [
        b"PUB a -1\r\n",
        b"PUB a 1e3\r\n",
        b"PUB a\r\n",
        b"PUB a b c 1\r\n",
        b"PUB a\x00b 0\r\n",
        b"HPUB a 5 4\r\n",
        b"PUB a 1\r\nxyz\r\n",
        b"SUB a\r\n",
        b"UNSUB\r\n",
        b"PING 1\r\n",
        b"CONNECT []\r\n",
        b"CONNECT {\r\n",
        b"\r\n",
        b"PING\nPING\r\n",
        b"MSG a 1 0\r\n\r\n",
        b"CONNECT " + b"[" * 4000 + b"\r\n",
    ],
)
def test_a_malformed_line_of_a_client_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        FrameParser(Source.CLIENT, LIMIT_BYTES).feed(line)


@pytest.mark.parametrize("text", ["a b", "a\r\n", "", "é", "x" * 600])
def test_a_field_that_would_break_the_line_is_not_written(text: str) -> None:
    with pytest.raises(ProtocolError):
        encode(Pub(text, b""))
    with pytest.raises(ProtocolError):
        encode(Sub("a", text))
