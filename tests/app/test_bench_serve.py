"""Loads, accounts and reports of ``make bench-serve``; no test here looks at a time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.errors import BenchError
from benchmarks.pictures import Scene
from benchmarks.processes import Server, running
from benchmarks.rivals.model import Model, read_pair, write_png
from benchmarks.serve import report
from benchmarks.serve.bare import Bare
from benchmarks.serve.conduct import Drain, Memory, Overload
from benchmarks.serve.judged import Measured, findings
from benchmarks.serve.load import Load, Shot, closed_loop, first_answer, form, hold, open_loop
from benchmarks.serve.plot import draw
from benchmarks.serve.profile import MIXED, QUICK
from benchmarks.serve.speed import ONE_SIZE, WAYS, Cell, Speed, count_turns
from benchmarks.serve.subjects import FASTAPI, LITSERVE, PAIRFUSE, find_litserve, running_rival

FACTS = {"processor": "Test"}


def load_of(*statuses, seconds=1.0, each=0.1, retry_after=None):
    return Load([Shot(0.0, each, status, retry_after) for status in statuses], seconds, 0.01)


def with_tail(load, seconds):
    """The same load, but one request in ten took so long."""
    shots = [replace(shot, seconds=seconds) if number % 10 == 0 else shot for number, shot in enumerate(load.shots)]
    return replace(load, shots=shots)


def made_speed(one_client=0.105, requests=100, other=0.2, others=50, tail=0.1):
    bare = {(pairs, way): [Bare([0.1] * 100, 10.0)] * 2 for pairs in (ONE_SIZE, MIXED) for way in WAYS}
    bare[ONE_SIZE, "one on each core"] = [Bare([0.1] * 120, 10.0)] * 2
    loads = {
        Cell(PAIRFUSE, ONE_SIZE, 1): [load_of(*[200] * requests, each=one_client, seconds=10.0)] * 2,
        Cell(PAIRFUSE, ONE_SIZE, 16): [with_tail(load_of(*[200] * 120, 503, 504, seconds=10.0), tail)] * 2,
        Cell(PAIRFUSE, MIXED, 16): [with_tail(load_of(*[200] * 100, seconds=10.0), 0.5)] * 2,
        Cell(FASTAPI, ONE_SIZE, 1): [load_of(*[200] * others, each=other, seconds=10.0)] * 2,
        Cell(LITSERVE, ONE_SIZE, 1): [load_of(*[200] * 20, each=0.3, seconds=10.0)] * 2,
    }
    return Speed(bare, loads)


def made(**changed):
    measured = Measured(
        facts=FACTS,
        profile=QUICK,
        speed=made_speed(),
        idle={PAIRFUSE: 0.001, FASTAPI: 0.01},
        memory=Memory(100, [100_000_000] * 20),
        overload=Overload(30.0, load_of(200, 200, 503, retry_after=1.0), 0.5, 3.0),
        drain=Drain(load_of(200), 0.05, 1.0, 0),
        deadline_s=30.0,
        left_out=["LitServe is left out."],
    )
    return replace(measured, **changed)


def verdicts(measured):
    return {row.key: row.passed for row in findings(measured)}


def test_what_meets_every_target_passes():
    assert all(verdicts(made()).values())
    assert len(findings(made())) == 16


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"speed": made_speed(one_client=0.109)}, "one_client"),
        ({"speed": made_speed(tail=0.14)}, "tail"),
        ({"speed": made_speed(others=101)}, "ahead"),
        ({"speed": made_speed(other=0.1)}, "sooner"),
        ({"idle": {PAIRFUSE: 0.006}}, "idle_percent"),
        ({"memory": Memory(100, list(range(100, 200)))}, "drift_percent"),
        ({"overload": Overload(30.0, load_of(200, 500, 503, retry_after=1.0), 0.5, 3.0)}, "overload_errors"),
        ({"overload": Overload(30.0, load_of(200, 504, 503, retry_after=1.0), 0.5, 3.0)}, "overload_errors"),
        ({"overload": Overload(30.0, load_of(200, 503), 0.5, 3.0)}, "overload_silent"),
        ({"overload": Overload(30.0, load_of(200, 0, 503, retry_after=1.0), 0.5, 3.0)}, "overload_lost"),
        ({"overload": Overload(30.0, load_of(200, 503, each=31.0, retry_after=1.0), 0.5, 3.0)}, "overload_p99_s"),
        ({"overload": Overload(30.0, load_of(200, 503, retry_after=1.0), math.inf, math.inf)}, "recovery_s"),
        ({"overload": Overload(30.0, load_of(200, 200), 0.5, 3.0)}, "overload_refused"),
        ({"drain": Drain(load_of(0), 0.05, 1.0, 0)}, "drain_failed"),
        ({"drain": Drain(load_of(200), 0.05, 1.0, 1)}, "drain_exit"),
        ({"drain": Drain(load_of(200), 0.05, 60.0, None)}, "drain_exit"),
    ],
)
def test_each_target_can_be_missed(changed, missed):
    assert [key for key, passed in verdicts(made(**changed)).items() if not passed] == [missed]


def test_a_turn_of_few_requests_is_not_judged():
    [row] = [row for row in findings(made(speed=made_speed(requests=19))) if row.key == "one_client"]
    assert row.passed is None
    assert row.value == pytest.approx(1.05)
    assert "19 of the 20" in row.label


def test_ratios_are_held_against_the_better_way_of_the_same_round():
    speed = made_speed()
    speed.bare[ONE_SIZE, "one by one"] = [Bare([0.1] * 10, 1.0), Bare([0.1] * 24, 1.0)]
    assert speed.best_bare(ONE_SIZE) == [12, 24]
    ratio = next(row for row in findings(made(speed=speed)) if row.key == "of_best")
    assert ratio.value == pytest.approx((12 / 12 + 12 / 24) / 2)
    assert speed.capacity() == 12


def test_the_first_request_of_each_client_counts_only_if_there_is_no_other():
    first, later = Shot(0.0, 1.0, 200, None, first=True), Shot(1.0, 3.0, 200, None)
    assert Load([first, later], 4.0, 0.1).times == [3.0]
    assert Load([first, later], 4.0, 0.1).throughput == 0.5
    assert Load([first, Shot(1.0, 0.1, 503, 1.0)], 1.0, 0.1).times == [1.0]


def test_drift_is_that_of_the_second_half():
    assert Memory(1, [*range(50), *[200] * 50]).drift == pytest.approx(0, abs=1e-9)
    assert Memory(1, [*[1] * 50, *np.linspace(100, 110, 50)]).drift == pytest.approx(0.1)


def test_requests_at_the_signal_are_told_from_later_ones():
    shots = [Shot(0.0, 0.5, 200, None), Shot(0.0, 2.0, 200, None), Shot(0.5, 2.0, 503, 5.0), Shot(1.5, 0.1, 0, None)]
    drain = Drain(Load(shots, 3.0, 0.1), 1.0, 2.0, 0)
    assert drain.inside() == {200: 1, 503: 1}
    assert drain.later() == {0: 1}
    assert drain.failed == 0


def test_the_page_shows_every_server_and_what_is_left_out():
    page = report.as_markdown(made(), "picture.svg")
    assert "](picture.svg)" in page
    assert "LitServe is left out." in page
    assert "| FastAPI | 1 | 5.00 |" in page
    assert "| 2, 2 |" in page
    assert page.count("| miss |") == 0
    assert page.count("| pass |") == 16
    assert "overload: neither picture nor 503" in page
    json.dumps(report.as_json(made()), allow_nan=False)


def test_the_picture_shows_every_server_and_both_ways_in_process():
    measured = made()
    picture = draw(measured.speed, measured.memory)
    assert picture == draw(measured.speed, measured.memory)
    for words in (PAIRFUSE, FASTAPI, LITSERVE, "in process, one by one", "in process, one on each core", "clients"):
        assert f"<!-- {words} -->" in picture


def test_a_quick_run_has_a_turn_for_each_way_and_cell():
    assert count_turns(2, QUICK) == QUICK.rounds * (2 * 2 + 4 + 3)


@pytest.fixture
def bodies(pair):
    hold({"good": [form(*pair)], "bad": [form(pair[0], b"x")]})


@pytest.fixture(scope="module")
def bundle(weights):
    return weights / "coded"


def test_loads_against_another_server(bundle, bodies, pair, tmp_path):
    """The plain FastAPI server answers what its own functions make, and every request is counted."""
    command = [sys.executable, "-m", "benchmarks.rivals.fastapi_server", str(bundle), "{port}", "1"]
    with running_rival("fastapi", command, tmp_path) as server:
        expected = read_pair(*pair)
        assert first_answer(server.port, "good") == write_png(Model(bundle, 1).fuse([expected])[0], expected)
        closed = closed_loop(server.port, "good", clients=3, requests=10)
        assert [shot.status for shot in closed.shots] == [200] * 10
        assert closed.throughput > 0
        burst = open_loop(server.port, "good", rate=50, seconds=0.5, seed=1)
        assert len(burst.load.shots) == burst.load.count(200) > 5
        assert [shot.status for shot in burst.probes] == [200]
        assert closed_loop(server.port, "bad", clients=1, requests=1).count(500) == 1
        port = server.port
    assert closed_loop(port, "good", clients=2, requests=9).count(0) == 2


def test_a_server_that_ends_by_itself_is_reported(tmp_path):
    command = ["sh", "-c", "echo no such thing; exit 3"]
    with (
        pytest.raises(BenchError, match=r"(?s)ended by itself.*no such thing"),
        running(command, {}, 1, tmp_path / "log", "/"),
    ):
        pass


def test_suspended_servers_take_no_cpu_and_can_be_ended(tmp_path):
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    server = Server(process, 1, tmp_path / "log")
    try:
        server.suspend()
        before = server.cpu_seconds()
        sum(range(10**6))
        assert server.cpu_seconds() == before
        server.resume()
    finally:
        process.kill()
        process.wait()
    server.suspend()
    assert server.resident_bytes() == 0


def test_the_other_model_code_fuses_the_released_model_like_the_service(real_weights):
    """Pairs of one size in one run give what each gives alone."""
    scene = Scene(48, 64)
    model = Model(Path(real_weights) / "titok-ste-lite", 1)
    pairs = [read_pair(*scene.files()) for _ in range(2)]
    together = model.fuse(pairs)
    assert together.shape == (2, 48, 64)
    assert np.abs(together - [model.fuse([pair])[0] for pair in pairs]).max() < 1e-4


def test_litserve_is_taken_from_where_the_caller_says():
    assert find_litserve("/some/python") == "/some/python"
