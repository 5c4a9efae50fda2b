"""The NATS client protocol without a socket: bytes in, events out."""

import json
import string
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libnvshare.tests.control.conftest import Exchange

LINE_MAX_BYTES = 4096
PAYLOAD_MAX_BYTES = 16384


def parse(exchange: Exchange, *pieces: bytes) -> list[str]:
    request = struct.pack("<I", len(pieces)) + b"".join(struct.pack("<I", len(piece)) + piece for piece in pieces)
    return exchange("nats_filter", request, 1)[0].decode().splitlines()


def is_broken(exchange: Exchange, stream: bytes) -> bool:
    events = parse(exchange, stream)
    return len(events) == 1 and events[0].startswith("BROKEN")


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (b"PING\r\n", "PING"),
        (b"PONG\r\n", "PONG"),
        (b"+OK\r\n", "OK"),
        (b"-ERR 'Unknown Protocol Operation'\r\n", "ERR 'Unknown Protocol Operation'"),
        (b"MSG a.b 1 3\r\nxyz\r\n", "MSG a.b 78797a"),
        (b"MSG a.b 1 _INBOX.reply 0\r\n\r\n", "MSG a.b "),
        (b"MSG\ta.b  1 \t 3\r\nx\r\n\r\n", "MSG a.b 780d0a"),
        (b"HMSG a.b 1 12 15\r\nNATS/1.0\r\n\r\nxyz\r\n", "MSG a.b 78797a"),
        (b"HMSG a.b 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n", "MSG a.b "),
        (b'INFO {"server_id":"X"}\r\n', "INFO"),
        (b'INFO {"nvshare":{"pid":7,"node":"n-1","allocation":"a_B"}} \r\n', "INFO a_B 7 n-1"),
    ],
)
def test_a_frame_is_one_event(exchange: Exchange, frame: bytes, event: str) -> None:
    assert parse(exchange, frame) == [event]


@pytest.mark.parametrize(
    "stream",
    [
        b"\r\n",
        b"PING\n",
        b"ping\r\n",
        b"PING \r\n",
        b"PINGPONG\r\n",
        b"PI\0NG\r\n",
        b"MSG a.b 1\r\n",
        b"MSG a.b 1 r 3 4 5\r\nabc\r\n",
        b"MSG a.b 1 -3\r\nabc\r\n",
        b"MSG a.b 1 3x\r\nabc\r\n",
        b"MSG a.b 1 99999999999999999999\r\n",
        b"MSG a.b 1 3\r\nabcd\r\n",
        b"MSG " + b"a" * 256 + b" 1 0\r\n\r\n",
        b"HMSG a.b 1 5\r\nabcde\r\n",
        b"HMSG a.b 1 6 5\r\nabcde\r\n",
        b"INFO\r\n",
        b"INFO []\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\n",
    ],
)
def test_what_is_not_the_protocol_breaks_the_parser(exchange: Exchange, stream: bytes) -> None:
    assert is_broken(exchange, stream)


def test_a_broken_parser_says_nothing_more(exchange: Exchange) -> None:
    assert len(parse(exchange, b"nonsense\r\nPING\r\n", b"PING\r\n")) == 1


def test_a_line_of_4_kib_is_read_and_a_longer_one_is_refused(exchange: Exchange) -> None:
    longest = b"-ERR " + b"x" * (LINE_MAX_BYTES - 7) + b"\r\n"
    assert parse(exchange, longest) == ["ERR " + "x" * (LINE_MAX_BYTES - 7)]
    assert is_broken(exchange, b"-ERR " + b"x" * (LINE_MAX_BYTES - 6) + b"\r\n")
    assert is_broken(exchange, b"x" * (LINE_MAX_BYTES + 1))


def test_a_payload_of_16_kib_is_read_and_a_larger_one_is_refused(exchange: Exchange) -> None:
    payload = bytes(PAYLOAD_MAX_BYTES)
    assert parse(exchange, b"MSG a 1 %d\r\n%s\r\n" % (len(payload), payload)) == ["MSG a " + payload.hex()]
    assert is_broken(exchange, b"MSG a 1 %d\r\n" % (PAYLOAD_MAX_BYTES + 1))
    assert is_broken(exchange, b"HMSG a 1 2 %d\r\n" % (PAYLOAD_MAX_BYTES + 1))


subjects = st.text(string.ascii_letters + string.digits + "._-$", min_size=1, max_size=255)


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, str]:
    """A frame, and its event's line."""
    kind = draw(st.sampled_from(["PING", "ERR", "MSG", "HMSG"]))
    if kind == "PING":
        return b"PING\r\n", "PING"
    if kind == "ERR":
        text = draw(st.text(string.printable.replace("\r", "").replace("\n", "").replace("\v", "").replace("\f", "")))
        return b"-ERR " + text.encode() + b"\r\n", "ERR " + text
    subject, payload = draw(subjects), draw(st.binary(max_size=60))
    reply = draw(st.sampled_from([b"", b" _INBOX.x"]))
    event = f"MSG {subject} {payload.hex()}"
    if kind == "MSG":
        return b"MSG %s 1%s %d\r\n%s\r\n" % (subject.encode(), reply, len(payload), payload), event
    headers = b"NATS/1.0\r\nk: %s\r\n\r\n" % draw(st.sampled_from([b"", b"v"]))
    sizes = len(headers), len(headers) + len(payload)
    return b"HMSG %s 1%s %d %d\r\n%s%s\r\n" % (subject.encode(), reply, *sizes, headers, payload), event


@settings(max_examples=60, deadline=None)
@given(content=st.lists(frames(), max_size=6), data=st.data())
def test_any_split_of_a_stream_gives_the_same_events(
    exchange: Exchange, content: list[tuple[bytes, str]], data: st.DataObject
) -> None:
    stream = b"".join(frame for frame, _ in content)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(exchange, *pieces) == [event for _, event in content]


def test_mutated_streams_do_no_harm_and_splits_change_nothing(programs: Path) -> None:
    done = subprocess.run([programs / "nats_fuzz", "1", "50000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken, whole = (int(word) for word in done.stdout.split() if word.isdigit())
    assert broken > 1_000
    assert whole > 1_000


# ---- The JSON of INFO

IDENTITY = {"allocation": "run-0a1b", "pid": 4242, "node": "node-1"}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text().filter(lambda name: name != "nvshare"), values, max_size=5)


@settings(max_examples=60, deadline=None)
@given(members=objects, inner=objects, at_end=st.booleans(), ascii_only=st.booleans())
def test_the_identity_is_found_among_any_other_members(
    exchange: Exchange, members: dict[str, object], inner: dict[str, object], at_end: bool, ascii_only: bool
) -> None:
    identity = {"nvshare": inner | IDENTITY}
    text = json.dumps(members | identity if at_end else identity | members, ensure_ascii=ascii_only)
    line = b"INFO " + text.encode(errors="surrogatepass") + b"\r\n"
    if len(line) <= LINE_MAX_BYTES:
        assert parse(exchange, line) == ["INFO run-0a1b 4242 node-1"]


@settings(max_examples=120, deadline=None)
@given(members=objects, data=st.data())
def test_json_is_accepted_only_if_python_accepts_it(
    exchange: Exchange, members: dict[str, object], data: st.DataObject
) -> None:
    text = json.dumps(members)
    at = data.draw(st.integers(0, len(text)))
    put_in = data.draw(st.text('{}[]",:\\ -+.e0123tfn', max_size=3))
    damaged = text[:at] + put_in + text[at + data.draw(st.integers(0, 3)) :]
    line = b"INFO " + damaged.encode() + b"\r\n"
    if len(line) <= LINE_MAX_BYTES and parse(exchange, line) == ["INFO"]:
        assert isinstance(json.loads(damaged), dict)


@pytest.mark.parametrize(
    "info",
    [
        '{"nvshare":7}',
        '{"nvshare":{}}',
        '{"nvshare":{"allocation":"a","pid":1}}',
        '{"nvshare":{"allocation":"a","node":"n"}}',
        '{"nvshare":{"pid":1,"node":"n"}}',
        '{"nvshare":{"allocation":"*","pid":1,"node":"n"}}',
        '{"nvshare":{"allocation":"a.b","pid":1,"node":"n"}}',
        '{"nvshare":{"allocation":"","pid":1,"node":"n"}}',
        '{"nvshare":{"allocation":"' + "a" * 65 + '","pid":1,"node":"n"}}',
        '{"nvshare":{"allocation":"\\u0061","pid":1,"node":"n"}}',
        '{"nvshare":{"allocation":"a","pid":0,"node":"n"}}',
        '{"nvshare":{"allocation":"a","pid":-1,"node":"n"}}',
        '{"nvshare":{"allocation":"a","pid":1.5,"node":"n"}}',
        '{"nvshare":{"allocation":"a","pid":01,"node":"n"}}',
        '{"nvshare":{"allocation":"a","pid":99999999999,"node":"n"}}',
        '{"nvshare":{"allocation":"a","pid":"1","node":"n"}}',
        '{"nvshare":{"allocation":"a","allocation":"b","pid":1,"node":"n"}}',
        '{"nvshare":{"allocation":"a","pid":1,"node":"n"},"nvshare":{"allocation":"b","pid":1,"node":"n"}}',
        '{"nvshare":{"allocation":"a","pid":1,"node":"n"},"nvshare":{}}',
        '{"a":' + "[" * 17 + "]" * 17 + "}",
        '{"a":1}x',
        '{"a":1,}',
        '{"a" 1}',
        '{"a":01}',
        '{"a":.5}',
        '{"a":1.}',
        '{"a":1e}',
        '{"a":tru}',
        '{"a":"\\x"}',
        '{"a":"\\u12g4"}',
        '{"a":"x}',
        '{"a":[1 2]}',
    ],
)
def test_an_info_that_is_wrong_is_refused(exchange: Exchange, info: str) -> None:
    assert is_broken(exchange, f"INFO {info}\r\n".encode())
