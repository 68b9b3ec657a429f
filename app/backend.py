"""What runs a model: the protocol that the engine relies on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.runs import Run

Tensor = NDArray[np.float32]


class Backend(Protocol):
    """Runs the graphs of one model; several threads at once may, each with a run of its own, but for ``reopen``.

    Attributes:
        kind: Name of the implementation, such as ``onnx``.
        device: ``cpu`` or ``cuda``.
        fell_back: Whether a better device was offered but the graphs did not get it.
        has_tiles: Whether ``fuse_in_tiles`` works for this model.
        runs: Most runs side by side that pay on this device.
    """

    kind: str
    device: str
    fell_back: bool
    has_tiles: bool
    runs: int

    def reopen(self) -> None:
        """Gives all that the graphs hold back and opens them again, as at the start; nothing may run.

        Raises:
            BundleError: The bundle is damaged or is not the one that was opened before.
            StartupError: They would run on another device.
        """
        ...

    def encode(self, images: Tensor, run: Run) -> Tensor:
        """Encodes luminance images (N, 1, H, W) in [0, 1] to codes (N, ...).

        Raises:
            AbandonedError: The run was ended before its end.
        """
        ...

    def fuse(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses a batch, in tiles if the card says so for images of this size.

        Args:
            inputs: By graph input name: ``a`` and ``b`` (N, 1, H, W) in [0, 1]; ``code_a`` and ``code_b``
                (N, ...) if the model has an encoder; ``edit`` (N, S) if it has S edit slots.
            run: What it is part of.

        Returns:
            Fused luminance (N, 1, H, W) in [0, 1].

        Raises:
            AbandonedError: The run was ended before its end.
        """
        ...

    def fuse_in_tiles(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses images of any size in tiles; arguments, result and errors as in ``fuse``."""
        ...

    def fuse_whole(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses images of any size with the fusion graph; arguments, result and errors as in ``fuse``."""
        ...
