"""Which events are written, and how often."""

from dataclasses import replace

from nvshare.quota_watcher.events import (
    BURST,
    INTERVAL_SECONDS,
    REFILL_SECONDS,
    SIMILAR_EVENTS,
    CountUp,
    EventBook,
    Notice,
    Post,
)

NOTICE = Notice("default", "web", "uid-1", True, "QuotaInvalid", "nvshare.com/gpu-core-limit is bad")


def test_the_first_is_posted_about_the_pod() -> None:
    post = EventBook().record(NOTICE, 0.0)
    assert isinstance(post, Post)
    assert post.body["involvedObject"]["uid"] == "uid-1"
    assert (post.body["type"], post.body["reason"], post.body["count"]) == ("Warning", "QuotaInvalid", 1)
    assert post.body["firstTimestamp"] == "1970-01-01T00:00:00Z"


def test_the_same_again_is_counted_up() -> None:
    book = EventBook()
    first, second = book.record(NOTICE, 0.0), book.record(NOTICE, 60.0)
    assert isinstance(first, Post)
    assert second == CountUp("default", first.name, {"count": 2, "lastTimestamp": "1970-01-01T00:01:00Z"})


def test_two_watchers_write_one_event() -> None:
    one, other = EventBook().record(NOTICE, 0.0), EventBook().record(NOTICE, 1.0)
    assert isinstance(one, Post)
    assert isinstance(other, Post)
    assert one.name == other.name


def test_what_others_counted_is_counted_on() -> None:
    book = EventBook()
    first = book.record(NOTICE, 0.0)
    assert isinstance(first, Post)
    book.counted(first.name, 7)
    again = book.record(NOTICE, 1.0)
    assert isinstance(again, CountUp)
    assert again.body["count"] == 8


def test_an_event_that_is_not_there_any_more_is_posted_anew() -> None:
    book = EventBook()
    first = book.record(NOTICE, 0.0)
    assert isinstance(first, Post)
    book.forget(first.name)
    assert isinstance(book.record(NOTICE, 1.0), Post)


def names(book: EventBook, count: int, start: float = 0.0) -> set[str]:
    """The names of events with as many different texts."""
    written = [book.record(replace(NOTICE, text=f"text {start} {number}"), start) for number in range(count)]
    return {one.name for one in written if one is not None}


def test_many_that_are_alike_become_one() -> None:
    assert len(names(EventBook(), SIMILAR_EVENTS + 5)) == SIMILAR_EVENTS + 1


def test_after_a_while_they_are_told_apart_again() -> None:
    book = EventBook()
    names(book, SIMILAR_EVENTS + 5)
    assert len(names(book, 2, INTERVAL_SECONDS + 1)) == 2


def test_a_pod_has_so_many_in_store_and_gets_new_ones() -> None:
    book = EventBook()
    assert sum(book.record(NOTICE, 0.0) is not None for _ in range(BURST + 10)) == BURST
    assert book.dropped == 10
    assert book.record(replace(NOTICE, uid="uid-2"), 0.0) is not None
    assert book.record(NOTICE, REFILL_SECONDS) is not None
    assert book.record(NOTICE, REFILL_SECONDS) is None


def test_a_text_is_as_long_as_the_server_takes() -> None:
    post = EventBook().record(replace(NOTICE, text="x" * 5000), 0.0)
    assert isinstance(post, Post)
    assert len(post.body["message"]) == 1024
