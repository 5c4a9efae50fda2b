"""Subjects are built from safe tokens only, and name who they are from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.bus import subjects
from nvshare.bus.subjects import ClientAddress, SubjectError, UserAddress

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(tokens, tokens, tokens)
def test_a_report_names_its_client(gpu: str, allocation: str, client: str) -> None:
    subject = subjects.report(gpu, allocation, client)
    assert subjects.parse_report(subject) == ClientAddress(gpu, allocation, client)


@given(tokens, tokens, tokens)
def test_a_grant_names_its_client_and_is_no_report(gpu: str, allocation: str, client: str) -> None:
    subject = subjects.grant(gpu, allocation, client)
    assert subjects.parse_grant(subject) == ClientAddress(gpu, allocation, client)
    with pytest.raises(SubjectError):
        subjects.parse_report(subject)


@given(tokens, st.integers(0, 2**32 - 1), tokens)
def test_a_request_names_its_user(node: str, uid: int, verb: str) -> None:
    assert subjects.parse_user(subjects.user(node, uid, verb)) == UserAddress(node, uid, verb)


@pytest.mark.parametrize("text", ["", "*", ">", "a.b", "a b", "a\n", "a\r\nPUB x 0", "é", "x" * 65, "{{name()}}"])
def test_what_could_change_a_subject_is_no_token(text: str) -> None:
    assert not subjects.valid_token(text)
    with pytest.raises(SubjectError):
        subjects.report("GPU-1", text, "1-a")
    with pytest.raises(SubjectError):
        subjects.event("GPU-1", text)


@given(st.text(max_size=200))
def test_any_other_text_raises_a_subject_error(text: str) -> None:
    for parse in (subjects.parse_report, subjects.parse_grant, subjects.parse_user):
        with pytest.raises(SubjectError):
            parse(text)


@pytest.mark.parametrize("uid", ["-1", "01", "4294967296", "1e3", "root", ""])
def test_only_a_uid_is_a_user(uid: str) -> None:
    with pytest.raises(SubjectError):
        subjects.parse_user(f"nvshare.v1.node.node-1.user.{uid}.status")


@pytest.mark.parametrize("uid", [-1, 2**32])
def test_no_subject_is_built_for_what_is_no_uid(uid: int) -> None:
    with pytest.raises(SubjectError):
        subjects.user("node-1", uid, "status")
