"""Which backend runs the models, by the setting."""

from __future__ import annotations

from app.backend import Backend
from app.bundles import Bundle
from app.onnx_backend import OnnxBackend, import_runtime
from app.settings import Settings
from app.torch_backend import TorchBackend
from app.torch_network import import_torch


def require_runtime(settings: Settings) -> None:
    """Imports what the backend needs.

    Raises:
        StartupError: It is not installed.
    """
    if settings.backend == "torch":
        import_torch()
    else:
        import_runtime()


def open_backend(bundle: Bundle, settings: Settings) -> Backend:
    """Opens a checked bundle.

    Raises:
        BundleError: It cannot be opened or differs from its card.
        StartupError: The device that was asked for is not there.
    """
    return TorchBackend(bundle, settings) if settings.backend == "torch" else OnnxBackend(bundle, settings)
