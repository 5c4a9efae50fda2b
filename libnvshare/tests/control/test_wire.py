"""The C codec of Grant and Report, against Python's protobuf."""

import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from libnvshare.tests.control.conftest import Exchange

from nvshare.v1.client_pb2 import Grant, Report

AnyMessage = Grant | Report
AnyType = type[Grant] | type[Report]

GOLDEN = Path(__file__).parents[1] / "golden"

# Bytes of a string with its NUL (wire.h).
SIZES = {
    "gpu": 48,
    "client": 65,
    "name": 64,
    "version": 32,
    "build": 48,
    "traceparent": 64,
    "pinned_reason": 160,
    "swap_failure": 160,
    "timeslice_failure": 160,
    "activity": 193,
}


@dataclass(frozen=True)
class Decoded:
    """What the C decoder says: None for malformed, else every member; and how the C encoder writes that again."""

    members: dict[str, int | str] | None
    unknown_fields: int
    encoded: bytes


def decode(exchange: Exchange, message_type: AnyType, encoding: bytes) -> Decoded:
    kind = 0 if message_type is Grant else 1
    text, encoded = exchange("wire_filter", struct.pack("<II", kind, len(encoding)) + encoding, 2)
    first, *lines = text.decode().splitlines()
    result, unknown_fields = first.split()
    if result == "malformed":
        return Decoded(None, int(unknown_fields), encoded)
    members: dict[str, int | str] = {}
    for line in lines:
        name, value = line.split("=")
        members[name] = bytes.fromhex(value).decode() if name in SIZES else int(value)
    return Decoded(members, int(unknown_fields), encoded)


def members_of(message: AnyMessage) -> dict[str, int | str]:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


def canonical(message: AnyMessage) -> bytes:
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True)


def texts(size: int) -> st.SearchStrategy[str]:
    """Strings whose UTF-8 fits `size` bytes with a NUL behind it."""
    alphabet = st.characters(min_codepoint=1, exclude_categories=["Cs"])
    return st.text(alphabet, max_size=size - 1).filter(lambda text: len(text.encode()) < size)


@st.composite
def messages(draw: st.DrawFn) -> AnyMessage:
    message: AnyMessage = draw(st.sampled_from([Grant, Report]))()
    for field in message.DESCRIPTOR.fields:
        if draw(st.booleans()):
            continue
        if field.cpp_type == field.CPPTYPE_STRING:
            value: object = draw(texts(SIZES[field.name]))
        elif field.cpp_type == field.CPPTYPE_BOOL:
            value = True
        elif field.cpp_type == field.CPPTYPE_ENUM:
            value = draw(st.integers(0, 5) | st.integers(-(2**31), 2**31 - 1))
        else:
            bits = 64 if field.cpp_type == field.CPPTYPE_UINT64 else 32
            value = draw(st.integers(0, bits).map(lambda power: 2**power - 1) | st.integers(0, 2**bits - 1))
        setattr(message, field.name, value)
    return message


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


@st.composite
def unknown_fields(draw: st.DrawFn) -> bytes:
    number = draw(st.integers(Report.DESCRIPTOR.fields[-1].number + 1, 2**29 - 1))
    wire_type = draw(st.sampled_from([0, 1, 2, 5]))
    payload = draw(st.binary(max_size=20))
    value = {0: varint(draw(st.integers(0, 2**64 - 1))), 1: bytes(8), 2: varint(len(payload)) + payload, 5: bytes(4)}
    return varint(number << 3 | wire_type) + value[wire_type]


@settings(max_examples=120, deadline=None)
@given(message=messages())
def test_a_message_is_read_member_by_member_and_written_as_python_writes_it(
    exchange: Exchange, message: AnyMessage
) -> None:
    decoded = decode(exchange, type(message), message.SerializeToString())
    assert decoded == Decoded(members_of(message), 0, canonical(message))


@settings(max_examples=100, deadline=None)
@given(message=messages(), unknown=st.lists(unknown_fields(), max_size=4), before=st.booleans())
def test_unknown_fields_are_skipped_and_counted(
    exchange: Exchange, message: AnyMessage, unknown: list[bytes], before: bool
) -> None:
    known, others = message.SerializeToString(), b"".join(unknown)
    decoded = decode(exchange, type(message), others + known if before else known + others)
    assert decoded == Decoded(members_of(message), len(unknown), canonical(message))


@settings(max_examples=100, deadline=None)
@given(first=messages(), second=messages())
def test_of_a_field_that_comes_twice_the_last_one_counts(
    exchange: Exchange, first: AnyMessage, second: AnyMessage
) -> None:
    if type(first) is not type(second):
        return
    both = first.SerializeToString() + second.SerializeToString()
    assert decode(exchange, type(first), both).members == members_of(type(first).FromString(both))


@settings(max_examples=100, deadline=None)
@given(message=messages(), data=st.data())
def test_what_is_accepted_of_a_damaged_message_is_what_python_reads(
    exchange: Exchange, message: AnyMessage, data: st.DataObject
) -> None:
    damaged = bytearray(message.SerializeToString())
    at = data.draw(st.integers(0, len(damaged)))
    damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    decoded = decode(exchange, type(message), bytes(damaged))
    if decoded.members is not None:
        try:
            read = type(message).FromString(bytes(damaged))
        except DecodeError:
            pytest.fail("the C decoder accepts what Python refuses")
        assert decoded.members == members_of(read)


MALFORMED = {
    "field number 0": "00 01",
    "a tag beyond 32 bits": "88 80 80 80 80 01 01",
    "a group": "fb 01 fc 01",
    "the end of a group": "fc 01",
    "wire type 6": "fe 01",
    "wire type 7": "ff 01",
    "a number as a string": "1a 01 31",
    "a string as a number": "08 01",
    "a number as fixed64": "19 01 02 03 04 05 06 07 08",
    "a number that ends early": "18 80",
    "a number of eleven bytes": "18 80 80 80 80 80 80 80 80 80 80 01",
    "a number beyond 64 bits": "18 ff ff ff ff ff ff ff ff ff 02",
    "a string that ends early": "0a 05 47 50",
    "a length beyond 64 bits": "0a ff ff ff ff ff ff ff ff ff 02",
    "a length near 2 to the 64": "0a ff ff ff ff ff ff ff ff ff 01",
    "an unknown field that ends early": "fa 07 05 00",
    "a string that is too long": "0a 30" + "41" * 48,
    "a string with a NUL": "0a 01 00",
    "a byte that is not UTF-8": "0a 01 ff",
    "UTF-8 longer than needed": "0a 02 c0 80",
    "UTF-8 of a surrogate": "0a 03 ed a0 80",
    "UTF-8 beyond Unicode": "0a 04 f4 90 80 80",
    "UTF-8 that ends early": "0a 02 e2 82",
}


@pytest.mark.parametrize("encoding", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("message_type", [Grant, Report])
def test_a_malformed_message_is_refused(exchange: Exchange, message_type: AnyType, encoding: str) -> None:
    assert decode(exchange, message_type, bytes.fromhex(encoding)).members is None


def test_the_longest_strings_fit(exchange: Exchange) -> None:
    message = Report()
    for name in SIZES.keys() - {"traceparent"}:
        setattr(message, name, "x" * (SIZES[name] - 1))
    assert decode(exchange, Report, message.SerializeToString()).encoded == message.SerializeToString()


def test_the_greatest_report_fits_the_buffer_for_it() -> None:
    greatest = Report.FromString((GOLDEN / "report_greatest_swapping.bin").read_bytes())
    for name in SIZES.keys() - {"traceparent"}:
        setattr(greatest, name, "x" * (SIZES[name] - 1))
    greatest.state = -1  # type: ignore[assignment]  # an enumeration is longest when it is negative
    assert greatest.ByteSize() <= 2048  # NVS_WIRE_MESSAGE_MAX_BYTES


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_messages_do_no_harm(programs: Path, seed: int) -> None:
    done = subprocess.run([programs / "wire_fuzz", str(seed), "100000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    accepted, refused = (int(word) for word in done.stdout.split() if word.isdigit())
    assert accepted > 1_000
    assert refused > 1_000


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_golden_message_reads_as_described(exchange: Exchange, path: Path) -> None:
    description = json.loads(path.read_text())
    message_type: AnyType = {"Grant": Grant, "Report": Report}[description["message"]]
    expected = message_type(**description["fields"])
    decoded = decode(exchange, message_type, path.with_suffix(".bin").read_bytes())
    assert decoded == Decoded(members_of(expected), description["unknown_fields"], canonical(expected))


def test_the_golden_files_are_what_their_script_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, GOLDEN / "make_golden.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in GOLDEN.iterdir() if path.suffix in (".bin", ".json")}
    assert made == kept
