"""How much memory a GPU promises, and when it promises no more."""

from hypothesis import given
from hypothesis import strategies as st

from nvshare.device_plugin.devices import Gpu
from nvshare.device_plugin.listing import listed_shares
from nvshare.device_plugin.promises import Holding, Terms, quota_refusal
from nvshare.device_plugin.shares import Share

GIB = 2**30
CARD = Gpu("GPU-0", 0, 16 * GIB)
OTHER = Gpu("GPU-1", 1, 16 * GIB)


def holding(name: str, limit_gib: int = 0, gpu: str = "GPU-0", shares: int = 1) -> Holding:
    return Holding(name, {gpu: shares}, limit_gib * GIB)


def listed(terms: Terms, held: set[Share], holdings: list[Holding]) -> set[Share]:
    return {one.share for one in listed_shares({terms.gpu.uuid: terms}, held, holdings)}


def test_a_quota_promises_itself_however_many_shares_there_are() -> None:
    terms = Terms(CARD, 10, 100)
    assert terms.promised_bytes([holding("a", 4, shares=3)]) == 4 * GIB


def test_a_container_without_a_quota_is_promised_its_shares_part_of_the_cap() -> None:
    terms = Terms(CARD, 8, 150)
    assert terms.promised_bytes([holding("a"), holding("b", shares=2)]) == 3 * 24 * GIB // 8


def test_a_nodes_default_quota_is_promised_as_one() -> None:
    assert Terms(CARD, 8, 100, default_limit_bytes=3 * GIB).share_bytes == 3 * GIB


def test_containers_without_quotas_fill_a_card_exactly() -> None:
    terms = Terms(CARD, 4, 100)
    held = {Share("GPU-0", number) for number in range(3)}
    assert listed(terms, held, [holding(str(one)) for one in range(3)]) == {*held, Share("GPU-0", 3)}


def test_b4_at_the_cap_the_free_shares_are_no_longer_listed() -> None:
    terms = Terms(CARD, 10, 100)
    held = {Share("GPU-0", 4)}
    assert listed(terms, held, [holding("a", 16)]) == held


def test_b4_what_is_left_is_listed_for_as_many_as_it_can_promise_their_part() -> None:
    terms = Terms(CARD, 4, 100)
    held = {Share("GPU-0", 0)}
    assert listed(terms, held, [holding("a", 8)]) == {*held, Share("GPU-0", 1), Share("GPU-0", 2)}


def test_without_a_cap_all_shares_are_listed() -> None:
    assert len(listed(Terms(CARD, 10), {Share("GPU-0", 0)}, [holding("a", 64)])) == 10


def test_a_share_that_somebody_has_is_listed_when_there_are_fewer_shares_now() -> None:
    assert Share("GPU-0", 7) in listed(Terms(CARD, 2), {Share("GPU-0", 7)}, [holding("a")])


def test_the_cap_of_one_gpu_leaves_the_shares_of_another_alone() -> None:
    terms = {gpu.uuid: Terms(gpu, 10, 100) for gpu in (CARD, OTHER)}
    found = listed_shares(terms, {Share("GPU-0", 0)}, [holding("a", 16)])
    assert [one.share.gpu for one in found].count("GPU-1") == 10


def test_b4_a_quota_that_would_pass_the_cap_is_refused_with_the_sums() -> None:
    terms = {"GPU-0": Terms(CARD, 10, 100)}
    mine = holding("b", 2)
    refusal = quota_refusal(terms, [holding("a", 12), mine], mine, 6 * GIB)
    assert refusal == (
        "GPU-0 cannot promise 6.0 GiB: it may promise 16.0 GiB in all and has promised 12.0 GiB to others"
    )


def test_a_quota_that_fits_beside_the_others_is_not_refused() -> None:
    terms = {"GPU-0": Terms(CARD, 10, 100)}
    mine = holding("b", 2)
    assert quota_refusal(terms, [holding("a", 12), mine], mine, 4 * GIB) == ""


def test_less_than_now_is_possible_on_a_card_that_promised_too_much() -> None:
    terms = {"GPU-0": Terms(CARD, 10, 100)}
    mine = holding("b", 12)
    assert quota_refusal(terms, [holding("a", 12), mine], mine, 8 * GIB) == ""


def test_a_quota_over_two_gpus_must_fit_on_both() -> None:
    terms = {gpu.uuid: Terms(gpu, 10, 100) for gpu in (CARD, OTHER)}
    mine = Holding("b", {"GPU-0": 1, "GPU-1": 1}, 0)
    refusal = quota_refusal(terms, [holding("a", 12, "GPU-1"), mine], mine, 8 * GIB)
    assert refusal.startswith("GPU-1 cannot promise")


@given(st.integers(1, 20), st.integers(10, 300), st.lists(st.integers(0, 20 * GIB), max_size=8))
def test_who_takes_a_listed_share_without_a_quota_never_passes_the_cap(
    shares: int, percent: int, limits: list[int]
) -> None:
    terms = Terms(CARD, shares, percent)
    holdings = [Holding(str(number), {"GPU-0": 1}, limit) for number, limit in enumerate(limits)]
    room = terms.room_for_shares(holdings)
    assert room is not None
    newcomers = [Holding(f"new-{number}", {"GPU-0": 1}, 0) for number in range(room)]
    assert not room or terms.promised_bytes([*holdings, *newcomers]) <= (terms.cap_bytes or 0)
