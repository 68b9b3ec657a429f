"""A small form of ``make chaos``: every request is accounted for, and damaged images break nothing."""

from __future__ import annotations

from benchmarks.chaos.clients import SETTINGS
from benchmarks.chaos.crowd import let_in
from benchmarks.chaos.fuzz import MOST_FAULTS, fuzz

CLIENTS, CASES = 150, 120


def test_wrong_slow_and_lost_clients_all_add_up(start_service):
    service = start_service(**SETTINGS)
    crowd = let_in(
        *(service.port, service.process.pid),
        requests=CLIENTS,
        seed=7,
        at_once=24,
        most_bytes=300e6,
        on_end=lambda: None,
    )
    assert crowd.faults == []
    assert crowd.ledger.sent == CLIENTS
    assert crowd.ledger.left > 0
    assert {200, 400, 408, 413, 415, 422} <= set(crowd.ledger.statuses)
    assert service.client.get("/readyz").status_code == 200
    assert "exception" not in service.log.read_text()
    assert service.stop() == 0


def test_a_service_of_other_settings_is_found_out(start_service):
    service = start_service(**SETTINGS, max_pixels=5000)
    crowd = let_in(
        *(service.port, service.process.pid), requests=30, seed=7, at_once=8, most_bytes=300e6, on_end=lambda: None
    )
    assert any("(good): answered 413 instead of [200]" in fault for fault in crowd.faults)


def test_a_dead_service_is_found_out(start_service, tmp_path):
    service = start_service()
    service.process.kill()
    service.process.wait(30)
    fuzzed = fuzz(service.port, seconds=3600, seed=7, at_once=2, keep=tmp_path, on_case=lambda: None)
    assert set().union(*fuzzed.ends.values()) == {"lost"}
    assert MOST_FAULTS <= len(fuzzed.faults) < MOST_FAULTS + 2
    assert all(path.read_bytes() for path in fuzzed.kept)


def test_damaged_images_get_an_answer(service, tmp_path):
    fuzzed = fuzz(service.port, seconds=60, seed=7, at_once=8, keep=tmp_path / "kept", on_case=lambda: None, most=CASES)
    assert fuzzed.faults == []
    assert fuzzed.cases == CASES
    assert set(fuzzed.ends) == {"PNG", "JPEG", "TIFF", "WEBP", "BMP"}
    assert not (tmp_path / "kept").exists()
