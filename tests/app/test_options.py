from __future__ import annotations

import pytest

from app.catalog import load_catalog
from app.errors import BadFieldError, UnknownModelError
from app.options import FuseOptions, read_options
from app.settings import Settings
from app.telemetry import Telemetry


@pytest.fixture(scope="module")
def catalog(weights):
    return load_catalog(Settings(weights=weights, device="cpu", threads=1), Telemetry())


def test_defaults(catalog):
    assert read_options({}, catalog) == FuseOptions("coded", (1.0, 1.0), "auto", "png", 90, "stretch")


def test_all_fields(catalog):
    fields = {
        "model": "coded",
        "color": "b",
        "format": "jpeg",
        "quality": "1",
        "effort": "smallest",
        "range16": "full",
        "max_side": "640",
        "smooth": "0",
    }
    assert read_options(fields, catalog) == FuseOptions("coded", (1.0, 0.0), "b", "jpeg", 1, "full", 640, "smallest")


@pytest.mark.parametrize(
    ("fields", "edit"),
    [
        ({"strength": "2"}, (2, 2)),
        ({"strength": "0"}, (0, 0)),
        ({"strength": "0.5", "sharpen": "1.5"}, (1.5, 0.5)),
        ({"sharpen": "1e-1", "smooth": " 2 "}, (0.1, 2)),
    ],
)
def test_strength_sets_all_slots_and_a_slot_overrides_it(catalog, fields, edit):
    assert read_options(fields, catalog).edit == edit


@pytest.mark.parametrize("name", ["strength", "sharpen", "smooth"])
@pytest.mark.parametrize("text", ["-1", "3", "nan", "inf", "-inf", "x", "", "1,5", "2.0001", "0x1"])
def test_bad_strengths_name_the_field_and_its_range(catalog, name, text):
    with pytest.raises(BadFieldError, match=rf"^{name}: .*a number from 0 to 2") as caught:
        read_options({name: text}, catalog)
    assert caught.value.field == name


@pytest.mark.parametrize("text", ["0", "101", "-5", "9.5", "x", "", "٣", "1_0", "9" * 5000])
def test_bad_qualities(catalog, text):
    with pytest.raises(BadFieldError, match="a whole number from 1 to 100"):
        read_options({"quality": text}, catalog)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("color", "auto, a, b, none, rgb"),
        ("format", "png, jpeg"),
        ("effort", "fast, small, smallest"),
        ("range16", "full"),
    ],
)
def test_bad_choices_list_the_good_ones(catalog, name, listed):
    with pytest.raises(BadFieldError, match=listed):
        read_options({name: "purple"}, catalog)


def test_strength_for_a_model_without_slots(catalog):
    assert read_options({"model": "plain"}, catalog).edit == ()
    with pytest.raises(BadFieldError, match="plain has no edit slots"):
        read_options({"model": "plain", "strength": "1"}, catalog)


def test_unknown_fields_are_named(catalog):
    with pytest.raises(BadFieldError, match=r"strenght: .*image_a, image_b, model, strength"):
        read_options({"strenght": "1"}, catalog)


def test_unknown_models_list_the_known(catalog):
    with pytest.raises(UnknownModelError, match="coded, moody, plain"):
        read_options({"model": "titan"}, catalog)


@pytest.mark.parametrize(("text", "side"), [("0", 0), ("64", 64), ("1024", 1024), ("65535", 65535), ("00640", 640)])
def test_working_resolutions(catalog, text, side):
    assert read_options({"max_side": text}, catalog).max_side == side


def test_settings_are_the_defaults(catalog):
    settings = Settings(max_side=2048, quality=70, effort="small")
    options = read_options(settings.request_defaults, catalog)
    assert options == FuseOptions("coded", (1.0, 1.0), quality=70, max_side=2048, effort="small")
    assert read_options(Settings().request_defaults, catalog) == read_options({}, catalog)


@pytest.mark.parametrize("text", ["63", "65536", "-64", "64.5", "", "x", "٦٤", "6_4", "9" * 5000])
def test_bad_working_resolutions(catalog, text):
    with pytest.raises(BadFieldError, match="0 for the full size, or a whole number of pixels from 64 to 65535"):
        read_options({"max_side": text}, catalog)
