from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.cores import usable_cores
from app.settings import Settings, settings_table


def test_environment_variables_are_read(monkeypatch, tmp_path):
    monkeypatch.setenv("PAIRFUSE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("PAIRFUSE_MAX_PIXELS", "2000000")
    settings = Settings()
    assert settings.weights == tmp_path
    assert settings.max_pixels == 2_000_000


def test_a_bad_value_is_an_error(monkeypatch):
    monkeypatch.setenv("PAIRFUSE_DEVICE", "tpu")
    with pytest.raises(ValidationError, match="device"):
        Settings()


def test_every_setting_is_described_in_the_table():
    rows = settings_table().splitlines()
    assert len(rows) == len(Settings.model_fields) + 2
    for name, field in Settings.model_fields.items():
        assert field.description
        row = next(row for row in rows if f"`PAIRFUSE_{name.upper()}`" in row)
        assert row.endswith(f"{field.description} |")


def test_zero_means_the_usable_cores():
    assert Settings(threads=0).run_threads == usable_cores()
    assert Settings(threads=3).run_threads == 3
    assert Settings(codec_threads=0).codec_pool_size >= 2


@pytest.mark.parametrize(("workers", "runs", "codecs"), [(1, 8, 8), (2, 4, 4), (3, 2, 2), (8, 1, 2), (64, 1, 2)])
def test_workers_share_the_cores(monkeypatch, workers, runs, codecs):
    monkeypatch.setattr("app.settings.usable_cores", lambda: 8)
    settings = Settings(workers=workers)
    assert (settings.run_threads, settings.codec_pool_size) == (runs, codecs)
    assert Settings(workers=workers, threads=5, codec_threads=6).run_threads == 5
    assert Settings(workers=workers, threads=5, codec_threads=6).codec_pool_size == 6


def test_the_documentation_holds_the_table():
    page = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
    assert settings_table() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["1", "63", "65536", "-1", "half"])
def test_a_working_resolution_out_of_bounds_is_an_error(monkeypatch, text):
    monkeypatch.setenv("PAIRFUSE_MAX_SIDE", text)
    with pytest.raises(ValidationError, match="max_side"):
        Settings()


@pytest.mark.parametrize(("name", "text"), [("quality", "0"), ("quality", "101"), ("effort", "6"), ("effort", "Fast")])
def test_a_default_that_no_request_could_give_is_an_error(monkeypatch, name, text):
    monkeypatch.setenv(f"PAIRFUSE_{name.upper()}", text)
    with pytest.raises(ValidationError, match=name):
        Settings()
