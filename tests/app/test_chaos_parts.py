"""The chaos test itself: it repeats, it is really malformed, and it finds what does not add up."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections import Counter
from random import Random

import pytest
from PIL import Image

from benchmarks.chaos import files, fuzz
from benchmarks.chaos.clients import GOOD_SHARE, client
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.wire import Outcome, Sending, perform
from benchmarks.scrape import Counts, parse_counts

NOTHING = Counts(Counter(), 0, 0, 0)
ANSWER = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n%b\r\nok"


def sending(**changed):
    return Sending(**{"kind": "test", "pieces": (b"x",), "expected": frozenset({200})} | changed)


def ledger_of(*outcomes, **changed):
    ledger = Ledger()
    for number, outcome in enumerate(outcomes):
        ledger.add(number, sending(**changed), outcome)
    return ledger


def counted(*statuses, rejected=None, inflight=0, queue_depth=0):
    refused = sum(status != 200 for status in statuses)
    return Counts(Counter(statuses), refused if rejected is None else rejected, inflight, queue_depth)


def against(server, timeout_s=30.0, **changed):
    """Performs one client against a server of one handler."""

    async def run():
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            return await perform(listening.sockets[0].getsockname()[1], sending(**changed), timeout_s)

    return asyncio.run(run())


def answering(status, extra=b""):
    async def handle(reader, writer):
        await reader.read(1)
        writer.write(ANSWER % (status, extra))
        writer.close()

    return handle


def test_the_same_seed_sends_the_same_bytes():
    assert [client(3, number) for number in range(60)] == [client(3, number) for number in range(60)]
    assert [client(3, number) for number in range(60)] != [client(4, number) for number in range(60)]
    assert [fuzz.case(3, number) for number in range(30)] == [fuzz.case(3, number) for number in range(30)]


def test_a_third_of_the_clients_is_trouble_of_every_kind():
    kinds = Counter(client(1, number).kind for number in range(3000))
    good = sum(number for kind, number in kinds.items() if kind.startswith("good"))
    assert abs(good / 3000 - GOOD_SHARE) < 0.05
    assert len(kinds) == 28


def test_pictures_are_valid_and_bombs_declare_their_size(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # As in the service, which looks at the size itself.
    for kind in files.KINDS:
        for deep in (False, True) if kind in {"PNG", "TIFF"} else (False,):
            image = Image.open(io.BytesIO(files.picture((48, 64), kind, deep)))
            image.load()
            assert (image.format, image.size) == (kind, (64, 48))
    for bomb in (files.png_bomb, files.bmp_bomb, files.tiff_bomb):
        assert Image.open(io.BytesIO(bomb())).size == (files.BOMB_SIDE, files.BOMB_SIDE)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damages_reach_the_decoder():
    """Most damaged files still open, so that what is tried is not only the first check."""
    opened = Counter()
    for number in range(200):
        kind, data = fuzz.case(1, number)
        assert data != files.picture(fuzz.SIZE, kind, deep=False)
        with contextlib.suppress(Exception):
            opened[Image.open(io.BytesIO(data)).format] += 1
    assert set(opened) == set(files.KINDS)
    assert opened.total() > 60


def test_damages_of_nothing_are_nothing():
    assert fuzz.mutate(b"", Random(1)) == b""


def test_an_answer_is_read_with_what_it_says():
    found = against(answering(503, b"Retry-After: 1\r\n"))
    assert found == Outcome("answered", 503, True, b"ok")


def test_a_client_that_leaves_reads_nothing():
    assert against(answering(200), leaves="after sending") == Outcome("left")
    assert against(answering(200), leaves="amid the answer").status == 200


def test_a_connection_closed_without_an_answer_is_lost():
    async def close(_, writer):
        writer.close()

    assert against(close).end == "lost"


def test_silence_is_a_hang():
    async def wait(reader, _):
        await reader.read()

    assert against(wait, timeout_s=0.1).end == "hung"


def test_what_adds_up_is_no_difference():
    ledger = ledger_of(Outcome("answered", 200), Outcome("answered", 200))
    ledger.add(2, sending(), Outcome("left"))
    ledger.add(3, sending(counted=False), Outcome("left"))
    assert ledger.differences(counted(200), counted(200, 200, 200, 499)) == []
    assert ledger.wrong == []


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (counted(200), "2 requests were sent, the service counted 1"),
        (counted(200, 200, 200), "2 requests were sent, the service counted 3"),
        (counted(200, 400), "2 clients were answered 200, the service counted 1"),
        (counted(200, 200, rejected=1), "rejected_total counts 1"),
        (counted(200, 200, inflight=1), "inflight is 1"),
        (counted(200, 200, queue_depth=2), "queue_depth 2"),
        (counted(200, 200, 500), "answers of status 500"),
    ],
)
def test_each_difference_is_named(after, words):
    ledger = ledger_of(Outcome("answered", 200), Outcome("answered", 200))
    assert words in " ".join(ledger.differences(NOTHING, after))


def test_answers_that_reached_nobody_need_clients_that_left():
    ledger = ledger_of(Outcome("lost"))
    assert "1 counted answers reached nobody, 0 clients had left" in ledger.differences(NOTHING, counted(200))


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("lost"), "closed without an answer"),
        (Outcome("hung"), "no answer in time"),
        (Outcome("answered", 500), "answered 500 instead of [200]"),
        (Outcome("answered", 503), "503 without Retry-After"),
    ],
)
def test_wrong_ends_are_named_with_the_client(outcome, words):
    assert ledger_of(outcome).wrong == [f"client 0 (test): {ledger_of(outcome).wrong[0].partition(': ')[2]}"]
    assert words in ledger_of(outcome).wrong[0]


def test_overload_is_a_right_answer():
    assert ledger_of(Outcome("answered", 503, True)).wrong == []


def test_counters_are_read_from_what_the_service_writes():
    text = """# TYPE pairfuse_requests counter
pairfuse_requests_total{model="x",status="200"} 3.0
pairfuse_requests_total{model="y",status="200"} 2.0
pairfuse_requests_total{model="none",status="413"} 1.0
# TYPE pairfuse_rejected counter
pairfuse_rejected_total{reason="too-large"} 1.0
# TYPE pairfuse_inflight gauge
pairfuse_inflight 2.0
"""
    assert parse_counts(text) == Counts(Counter({200: 5, 413: 1}), 1, 2, 0)
