"""Everything that one running service owns, built once from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from app.catalog import Catalog, load_catalog
from app.gate import Gate
from app.pipeline import Pipeline
from app.settings import Settings
from app.telemetry import Telemetry


@dataclass(frozen=True)
class Service:
    """The parts of a service.

    Attributes:
        settings: What it was built from.
        catalog: The loaded models.
        telemetry: Its metrics.
        gate: Who may come in.
        pipeline: Fuses pairs.
    """

    settings: Settings
    catalog: Catalog
    telemetry: Telemetry
    gate: Gate
    pipeline: Pipeline


def build_service(settings: Settings, telemetry: Telemetry | None = None) -> Service:
    """Loads and warms up all models.

    Args:
        settings: What the service is built from.
        telemetry: Its metrics; new ones without.

    Raises:
        StartupError: There is nothing to serve, or nothing to run it with.
    """
    telemetry = telemetry or Telemetry()
    catalog = load_catalog(settings, telemetry)
    gate = Gate(settings.max_inflight, settings.max_inflight_pixels, settings.max_body_bytes, telemetry.inflight)
    pipeline = Pipeline(settings, catalog, telemetry, gate)
    gate.ask_for_waits(pipeline.wait_s)
    return Service(settings, catalog, telemetry, gate, pipeline)
