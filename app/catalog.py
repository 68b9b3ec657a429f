"""All models that the service can run, and the bundles that it refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from app.backend import Backend
from app.backends import open_backend, require_runtime
from app.bundles import find_bundles, read_bundle
from app.engine import Engine
from app.errors import BundleError, StartupError, UnknownModelError
from app.runs import Run
from app.settings import Settings
from app.telemetry import Telemetry

log = logging.getLogger(__name__)

PREFERRED = "titok-ste-lite"
# Tiles repeat the arithmetic of the whole in another order. What rounding makes of that is far below a grey level.
TILES_MAY_DIFFER = 1 / 255


class Catalog:
    """Models by name.

    Args:
        engines: Every loaded model.
        default: Name of the model that a request without ``model`` gets.
        refused: Reason by name of each refused bundle.
    """

    def __init__(self, engines: list[Engine], default: str, refused: dict[str, str]) -> None:
        self._engines = {engine.card.name: engine for engine in engines}
        self.default = default
        self.refused = refused

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines.values())

    def get(self, name: str | None) -> Engine:
        """Returns a model by name, or the default model for None.

        Raises:
            UnknownModelError: There is no such model.
        """
        engine = self._engines.get(self.default if name is None else name)
        if engine is None:
            raise UnknownModelError(str(name), self._engines)
        return engine


def load_catalog(settings: Settings, telemetry: Telemetry) -> Catalog:
    """Loads every sound bundle of the weights folder, with one warm-up run each.

    Raises:
        StartupError: What the backend needs, or CUDA, is missing, no bundle is sound, or the default model is not among
            them.
    """
    require_runtime(settings)
    engines: list[Engine] = []
    refused: dict[str, str] = {}
    for folder in find_bundles(settings.weights):
        try:
            engines.append(_load(folder, settings, telemetry))
        except BundleError as error:
            refused[error.name] = error.reason
            log.error("bundle refused", extra={"model": error.name, "reason": error.reason})
    return Catalog(engines, _default(settings, engines, refused), refused)


def _load(folder: Path, settings: Settings, telemetry: Telemetry) -> Engine:
    bundle = read_bundle(folder)
    backend = open_backend(bundle, settings)
    count_shortage = partial(telemetry.count_shortage, bundle.card.name)
    engine = Engine(bundle.card, backend, settings.cache_bytes, telemetry.count_lookup, count_shortage)
    try:
        engine.check()
        difference = _tiles_differ_by(backend, engine) if backend.has_tiles else 0.0
    except Exception as error:  # Whatever a graph raises, only its own bundle is refused.
        raise BundleError(folder.name, f"the warm-up run failed: {str(error)[:300]}") from None
    if not difference <= TILES_MAY_DIFFER:  # NaN is no agreement.
        raise BundleError(folder.name, f"the graphs for tiles differ from the fusion graph by {difference:.2g}")
    sha256 = bundle.card.files[bundle.card.fusion.file].sha256
    telemetry.model_info.labels(bundle.card.name, backend.kind, backend.device, sha256).set(1)
    telemetry.fell_back.labels(bundle.card.name).set(backend.fell_back)
    telemetry.expect(bundle.card.name)
    log.info("model loaded", extra={"model": bundle.card.name, "backend": backend.kind, "device": backend.device})
    return engine


def _tiles_differ_by(backend: Backend, engine: Engine) -> float:
    """Returns the largest difference that the graphs for tiles make on a small pair."""
    probe = engine.probe_job()
    inputs = {"a": probe.a[None, None], "b": probe.b[None, None]}
    return float(np.abs(backend.fuse_in_tiles(inputs, Run()) - backend.fuse_whole(inputs, Run())).max())


def _default(settings: Settings, engines: list[Engine], refused: dict[str, str]) -> str:
    names = [engine.card.name for engine in engines]
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
    if not names:
        raise StartupError(
            f"No usable model in {settings.weights}. Put a bundle there, or set PAIRFUSE_WEIGHTS."
            + (f" Refused:{reasons}" if refused else "")
        )
    if settings.model is None:
        return PREFERRED if PREFERRED in names else names[0]
    if settings.model not in names:
        raise StartupError(
            f"PAIRFUSE_MODEL={settings.model} is not loaded; there are: {', '.join(names)}."
            + (f" Refused:{reasons}" if refused else "")
        )
    return settings.model
