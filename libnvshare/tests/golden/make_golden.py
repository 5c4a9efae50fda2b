"""Writes the golden messages: what the C codec must read and write for as long as the contract's version is 1.

    python libnvshare/tests/golden/make_golden.py [FOLDER]

Each message is a `NAME.bin`, made by Python's protobuf, and a `NAME.json` that says what is in it: the type, the fields
that are set, and how many fields of the bytes no reader of today knows. The files are committed; a change of them is a
change of the contract, so a test compares them with what this script makes. Add messages, never change one.
"""

import json
import sys
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from nvshare.v1.client_pb2 import ClientState, Grant, Limit, Mode, Report, Wait

GPU = "GPU-5e0f2c1a-9b7d-4c55-8f13-2a6e0d9c4b71"
CLIENT = "4242-0123456789abcdef"

# A varint, a fixed64, a string and a fixed32 in fields that a later version may have.
UNKNOWN_FIELDS = bytes.fromhex("a006 96ab01 a906 0102030405060708 b206 05 6c61746572 bd06 01020304")

# The last field of a report before memory could move.
LAST_OF_A = 30


def with_greatest_numbers(report: Report, last_field: int) -> Report:
    """The report with every number, up to this field, at its greatest."""
    bits = {FieldDescriptor.CPPTYPE_UINT64: 64, FieldDescriptor.CPPTYPE_UINT32: 32}
    for field in Report.DESCRIPTOR.fields:
        if field.cpp_type in bits and field.number <= last_field:
            setattr(report, field.name, 2 ** bits[field.cpp_type] - 1)
    return report


MESSAGES: dict[str, tuple[str, Message, bytes, int]] = {
    "grant_first": (
        "the first grant of a client that waits for its turn",
        Grant(gpu=GPU, client=CLIENT, generation=1, epoch=1, sequence=1, wait=Wait.WAIT_TURN, mode=Mode.MODE_SERIAL),
        b"",
        0,
    ),
    "grant_slots": (
        "a client that may launch in 30 of each 100 ms",
        Grant(
            gpu=GPU,
            client=CLIENT,
            generation=7,
            epoch=1042,
            sequence=3,
            may_launch=True,
            resident_bytes=12 << 30,
            headroom_bytes=64 << 20,
            timeslice_us=20_000,
            slot_start_us=987_654_321_000,
            slot_length_us=30_000,
            period_us=100_000,
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
            limit_bytes=16 << 30,
            window_us=2_000,
            mode=Mode.MODE_CONCURRENT,
            build="golden",
            protocol=1,
        ),
        b"",
        0,
    ),
    "grant_later_version": (
        "a grant of a later version, with four fields that this one does not know",
        Grant(gpu=GPU, client=CLIENT, generation=2, epoch=9, sequence=1, may_launch=True, protocol=2),
        UNKNOWN_FIELDS,
        4,
    ),
    "report_first": (
        "the first report of a client, before any grant",
        Report(
            gpu=GPU,
            client=CLIENT,
            sequence=1,
            state=ClientState.CLIENT_STATE_WAITING,
            demand=True,
            monotonic_ns=1_234_567_890_123,
            pid=4242,
            name="train.py",
            version="0.1.0",
            build="golden",
            protocol=1,
        ),
        b"",
        0,
    ),
    "report_greatest": (
        "every number at its greatest",
        with_greatest_numbers(
            Report(
                gpu=GPU,
                client=CLIENT,
                state=ClientState.CLIENT_STATE_STUCK,
                demand=True,
                allocation_waits=True,
                leaving=True,
                name="größe",
                version="0.1.0",
                build="golden",
            ),
            LAST_OF_A,
        ),
        b"",
        0,
    ),
    "grant_target": (
        "a client that must make room for another one, and have host memory ready for it",
        Grant(
            gpu=GPU,
            client=CLIENT,
            generation=3,
            epoch=12,
            sequence=1,
            resident_bytes=4 << 30,
            wait=Wait.WAIT_MEMORY,
            mode=Mode.MODE_AUTO,
            protocol=1,
            pool_bytes=12 << 30,
            limited_by=Limit.LIMIT_HOST_ROOM,
        ),
        b"",
        0,
    ),
    "report_greatest_swapping": (
        "every number at its greatest, those of moving memory too",
        with_greatest_numbers(
            Report(
                gpu=GPU,
                client=CLIENT,
                state=ClientState.CLIENT_STATE_STUCK,
                demand=True,
                allocation_waits=True,
                leaving=True,
                name="größe",
                version="0.1.0",
                build="golden",
                pinned_reason="1 block exported by cuIpcGetMemHandle",
                swap_failure="no host memory",
                gang=True,
                swaps=True,
            ),
            44,
        ),
        b"",
        0,
    ),
    "report_slices": (
        "a client whose hardware time slice cannot be set",
        Report(gpu=GPU, client=CLIENT, sequence=9, timeslice_us=20_000, timeslice_failure="the kernel driver is older"),
        b"",
        0,
    ),
    "grant_paid": (
        "a client with slots that pays for a third of the time in which its work is in flight",
        Grant(gpu=GPU, client=CLIENT, generation=7, slot_length_us=30_000, period_us=100_000, paid_permille=333),
        b"",
        0,
    ),
    "report_activity": (
        "a client whose work was in flight for half of 10 ms, and then for 20",
        Report(gpu=GPU, client=CLIENT, sequence=9, activity="000Ooo0", activity_end_ns=1_234_567_890_000_000),
        b"",
        0,
    ),
}


def write(folder: Path) -> None:
    """Writes all files into `folder`."""
    for name, (comment, message, unknown, unknown_fields) in MESSAGES.items():
        (folder / f"{name}.bin").write_bytes(message.SerializeToString(deterministic=True) + unknown)
        description = {
            "comment": comment,
            "message": message.DESCRIPTOR.name,
            "fields": {field.name: value for field, value in message.ListFields()},
            "unknown_fields": unknown_fields,
        }
        (folder / f"{name}.json").write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
