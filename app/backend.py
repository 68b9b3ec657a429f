"""What runs a model: the protocol that the engine relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]
Abandoned = Callable[[], bool]


def never() -> bool:
    """For runs that go on to their end: nobody ever leaves."""
    return False


class Backend(Protocol):
    """Runs the graphs of one model. Not thread-safe: one thread calls it, but for ``interrupt``.

    Attributes:
        kind: Name of the implementation, such as ``onnx``.
        device: ``cpu`` or ``cuda``.
        fell_back: Whether a better device was offered but the graphs did not get it.
        has_tiles: Whether ``fuse_in_tiles`` works for this model.
    """

    kind: str
    device: str
    fell_back: bool
    has_tiles: bool

    def reopen(self) -> None:
        """Gives all that the graphs hold back and opens them again, as at the start.

        Raises:
            BundleError: The bundle is damaged or is not the one that was opened before.
            StartupError: They would run on another device.
        """
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Encodes luminance images (N, 1, H, W) in [0, 1] to codes (N, ...)."""
        ...

    def interrupt(self) -> None:
        """Lets the run of a graph that goes on now fail soon, if there is one; called from any thread."""
        ...

    def fuse(self, inputs: Mapping[str, Tensor], abandoned: Abandoned = never) -> Tensor:
        """Fuses a batch, in tiles if the card says so for images of this size.

        Args:
            inputs: By graph input name: ``a`` and ``b`` (N, 1, H, W) in [0, 1]; ``code_a`` and ``code_b``
                (N, ...) if the model has an encoder; ``edit`` (N, S) if it has S edit slots.
            abandoned: Asked before each tile whether nobody waits for the result any more; may take its time.

        Returns:
            Fused luminance (N, 1, H, W) in [0, 1].

        Raises:
            AbandonedError: The run was ended before its end.
        """
        ...

    def fuse_in_tiles(self, inputs: Mapping[str, Tensor], abandoned: Abandoned = never) -> Tensor:
        """Fuses images of any size in tiles; arguments, result and errors as in ``fuse``."""
        ...
