"""Order, repair, and messages that cannot be believed."""

from services.scheduler.tests.conftest import MakeDesk

from nvshare.scheduler.model import ClientReported, ClientState, Mode, RelayReported, Report
from nvshare.scheduler.policy import GIB, MILLISECOND_NS, SECOND_NS


def test_a_report_that_overtakes_the_relay_counts_as_soon_as_the_relay_names_its_sender(make_desk: MakeDesk) -> None:
    desk = make_desk()
    early = ClientReported("allocation-a", "1000-a", Report(1, protocol=1, build="unknown", monotonic_ns=desk.now_ns))
    assert desk.arbiter.handle(early, desk.now_ns) == []
    desk.start("a")
    assert desk.grant("a").may_launch


def test_a_report_of_somebody_that_the_relay_never_names_is_refused_and_counted(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    desk.arbiter.handle(ClientReported("foreign", "1-x", Report(1, protocol=1)), desk.now_ns)
    desk.pass_time(3 * SECOND_NS)
    desk.relay()
    assert desk.arbiter.state.refused_reports == 1
    assert len(desk.arbiter.state.clients) == 1


def test_reports_of_strangers_do_not_fill_the_memory(make_desk: MakeDesk) -> None:
    desk = make_desk()
    for number in range(10_000):
        desk.arbiter.handle(ClientReported("foreign", f"1-{number}", Report(1, protocol=1)), desk.now_ns)
    assert len(desk.arbiter.state.early) == desk.policy.early_reports


def test_an_older_or_repeated_report_is_dropped_and_counted(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a", footprint_bytes=GIB)
    desk.programs["a"].report = Report(0, protocol=1, build="unknown")
    desk.report("a", footprint_bytes=0)
    assert desk.arbiter.state.stale_reports == 1
    assert next(iter(desk.arbiter.state.clients.values())).footprint_bytes == GIB


def test_an_older_word_of_the_relay_is_dropped(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    desk.arbiter.handle(RelayReported(1, 1), desk.now_ns)
    assert len(desk.arbiter.state.clients) == 1


def test_a_lost_grant_is_sent_again_when_a_report_shows_an_older_one(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    first = desk.grant("a")
    desk.now_ns += 19 * MILLISECOND_NS
    desk.report("a")
    assert desk.grant("a") == first
    desk.now_ns += MILLISECOND_NS
    desk.report("a")
    assert (desk.grant("a").epoch, desk.grant("a").sequence) == (first.epoch, 2)


def test_a_grant_of_this_generation_is_repaired_after_200_ms(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    desk.follow("a", footprint_bytes=900 << 20)
    newest = desk.grant("a")
    assert newest.epoch == 2
    desk.now_ns += 199 * MILLISECOND_NS
    desk.report("a")
    assert desk.grant("a").sequence == 1
    desk.now_ns += MILLISECOND_NS
    desk.report("a")
    assert (desk.grant("a").epoch, desk.grant("a").sequence) == (2, 2)


def test_a_resend_does_not_change_what_is_charged(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    before = desk.arbiter.state.promised_bytes
    for _ in range(5):
        desk.now_ns += SECOND_NS
        desk.report("a")
    assert desk.arbiter.state.promised_bytes == before


def test_a_report_of_a_grant_that_was_never_sent_is_refused(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    desk.report("a", generation=1, epoch=99, footprint_bytes=GIB)
    assert desk.arbiter.state.refused_reports == 1
    assert next(iter(desk.arbiter.state.clients.values())).footprint_bytes == 0


def test_a_footprint_larger_than_the_card_counts_as_the_card(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("liar", footprint_bytes=2**63)
    assert desk.arbiter.state.promised_bytes == desk.arbiter.state.card.total_bytes


def test_e15_protocols_one_version_apart_work_together(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("older", protocol=0)
    desk.join("newer", protocol=2)
    assert desk.grant("older").may_launch
    assert desk.grant("newer").may_launch


def test_e15_a_protocol_two_versions_apart_is_refused_with_an_event(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("future", protocol=3)
    desk.report("future")
    assert desk.programs["future"].grant is None
    assert desk.kinds().count("protocol-differs") == 1
    assert desk.arbiter.state.refused_reports == 2


def test_e15_another_build_is_told_once(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("other", build="abc123")
    desk.report("other")
    assert desk.kinds().count("build-differs") == 1
    assert "abc123" in desk.text("build-differs")


def test_a_clock_of_another_host_is_told_once(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("here")
    assert "clock-mismatch" not in desk.kinds()
    program = desk.start("elsewhere")
    for sequence in (1, 2):
        report = Report(sequence, protocol=1, build="unknown", monotonic_ns=desk.now_ns + 5 * SECOND_NS)
        desk.take(
            desk.arbiter.handle(ClientReported(program.peer.allocation, program.peer.client, report), desk.now_ns)
        )
    assert desk.kinds().count("clock-mismatch") == 1


def test_a_new_nonce_of_the_same_process_is_a_new_client(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    desk.join("a", state=ClientState.WAITING)
    desk.follow("a", demand=True)
    desk.kill("a")
    desk.join("b")
    assert desk.grant("b").sequence == 1
    assert desk.grant("b").may_launch
