"""The contract `nvshare.v1`: what other versions and other languages rely on."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from nvshare.v1 import client_pb2, control_pb2, kubernetes_pb2, node_pb2

FOLDER = Path(__file__).resolve().parents[1]
FILES: list[FileDescriptor] = [
    client_pb2.DESCRIPTOR,
    node_pb2.DESCRIPTOR,
    control_pb2.DESCRIPTOR,
    kubernetes_pb2.DESCRIPTOR,
]
MESSAGES: list[Descriptor] = [message for file in FILES for message in file.message_types_by_name.values()]
TYPE_NAMES = {
    number: name.removeprefix("TYPE_").lower() for name, number in vars(FieldDescriptor).items() if name[:5] == "TYPE_"
}


def lines_of_fields() -> Iterator[str]:
    """One line for each field and each value of an enum, as `fields.txt` holds them."""
    for message in MESSAGES:
        for field in message.fields:
            repeated = "repeated " if field.is_repeated else ""
            yield f"{message.name}.{field.name} = {field.number} {repeated}{TYPE_NAMES[field.type]}"
    for file in FILES:
        for enum in file.enum_types_by_name.values():
            for value in enum.values:
                yield f"{enum.name}.{value.name} = {value.number}"


def test_e15_numbers_and_types_of_fields_never_change() -> None:
    """A library and services one version apart read each other's messages: nothing on the list may change or go.

    A new field belongs on the list too: append the line that the failure shows to `proto/tests/fields.txt`.
    """
    listed = (FOLDER / "tests" / "fields.txt").read_text().splitlines()
    now = list(lines_of_fields())
    assert [line for line in listed if line not in now] == [], "changed or gone"
    assert [line for line in now if line not in listed] == [], "new"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_a_field_that_counts_something_names_its_unit(message: Descriptor) -> None:
    """A number is a count, an identifier or an order of its own (the list), or its name ends in a unit."""
    numbers = {FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64}
    units = ("_bytes", "_us", "_ns", "_ticks", "_permille", "_percent", "_messages", "_connections")
    unitless = {
        "bytes",
        "epoch",
        "generation",
        "hand_overs",
        "index",
        "launches",
        "pid",
        "protocol",
        "sequence",
        "swap_failures",
        "weight",
    }
    assert not [
        field.name
        for field in message.fields
        if field.type in numbers and not field.name.endswith(units) and field.name not in unitless
    ]


def test_every_enum_starts_with_a_value_that_says_nothing() -> None:
    """Proto3 reads an absent field as 0, so 0 must not be news."""
    for file in FILES:
        for enum in file.enum_types_by_name.values():
            assert re.fullmatch(r"[A-Z_]+_(UNSPECIFIED|NONE)", enum.values_by_number[0].name)


def test_e15_a_field_of_a_newer_version_does_not_harm_the_known_ones() -> None:
    unknown_field = bytes([0xFA, 0x3F, 3]) + b"new"  # field 1023, length-delimited
    grant = client_pb2.Grant.FromString(client_pb2.Grant(epoch=7, may_launch=True).SerializeToString() + unknown_field)
    assert (grant.epoch, grant.may_launch) == (7, True)


def test_the_build_has_a_name() -> None:
    from nvshare.v1._build import BUILD

    assert re.fullmatch(r"[\w.+-]{1,47}", BUILD)
