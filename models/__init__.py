"""Network definitions in PyTorch: no I/O, no training code, no serving code."""

from models.base import FusionModel

__all__ = ["FusionModel"]
