"""Devices and arithmetic of a run."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy

from training.config import Precision as PrecisionName
from training.data.images import DataError


class FloatInputs(MixedPrecision):
    """Mixed precision that leaves the inputs of a network in float32.

    Fabric would round every input first: places in a frame to 1/256 of it, and pixels to half a grey level. Autocast
    already chooses half precision where it pays.
    """

    def convert_input(self, data: Any) -> Any:
        """The inputs, unchanged."""
        return data


def make_precision(name: PrecisionName) -> Precision:
    """The arithmetic of that name; ``16-mixed`` scales the loss on every device."""
    if name == "32-true":
        return Precision()
    half: Literal["16-mixed", "bf16-mixed"] = name
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return FloatInputs(half, device="cpu" if accelerator is None else accelerator.type)


def make_fabric(precision: PrecisionName, devices: int) -> Fabric:
    """Device and arithmetic of a run; more than one device trains data parallel.

    Raises:
        DataError: There are fewer devices than asked for.
    """
    if devices < 1:
        raise DataError(f"--devices must be 1 or more, not {devices}")
    if devices > 1 and torch.cuda.is_available() and torch.cuda.device_count() < devices:
        raise DataError(f"--devices {devices}, but torch sees {torch.cuda.device_count()} GPU(s)")
    # stage I leaves the fusion layers and the edit alone, so DDP must look for unused parameters
    strategy = DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto"
    fabric = Fabric(accelerator="auto", devices=devices, strategy=strategy, plugins=[make_precision(precision)])
    fabric.launch()
    return fabric
