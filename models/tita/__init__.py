"""TITA (ICCV 2025): the network, its ablations, and fusion of large images in tiles."""

from models.tita.config import ABLATIONS, PROFILES, TITAConfig
from models.tita.network import TITA
from models.tita.tiling import fuse_tiled

__all__ = ["ABLATIONS", "PROFILES", "TITA", "TITAConfig", "fuse_tiled"]
