"""UniFusion (CVPR 2026): the network, its backbones, and its ablations."""

from models.unifusion.backbone import Backbone, BackboneIdentity
from models.unifusion.config import ABLATIONS, PROFILES, UniFusionConfig
from models.unifusion.dinov3 import DinoV3Backbone
from models.unifusion.network import UniFusion
from models.unifusion.reconstruction import ReconstructionHeads
from models.unifusion.vit import SmallViT, ViTConfig

__all__ = [
    "ABLATIONS",
    "PROFILES",
    "Backbone",
    "BackboneIdentity",
    "DinoV3Backbone",
    "ReconstructionHeads",
    "SmallViT",
    "UniFusion",
    "UniFusionConfig",
    "ViTConfig",
]
