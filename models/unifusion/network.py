"""UniFusion: the features of a frozen vision transformer, adapted to pixels, guide the fusion of any kind of pair.

Reproduces "UniFusion" (CVPR 2026). Adapters bring four taps of the backbone to the resolution of the image and are
trained to rebuild it (the paper's φ); cross-attention between the channels of both images fuses them (θ).

Shape letters: N batch, H height, W width, f fold, E channels of a tap, h and w the sides in patches of 16, rounded up,
H' = 16 · h, W' = 16 · w, C width, with Z = (N, C, H' / f, W' / f).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import FusionModel, check_image, check_sources
from models.padding import crop_to, reflect_to
from models.unifusion.adapter import make_adapter
from models.unifusion.backbone import Backbone, check_backbone
from models.unifusion.config import HEAD_DIM, NUM_TAPS, PROFILES, STRIDE, UniFusionConfig
from models.unifusion.fusion import FusionNet
from models.unifusion.output import luminance, make_output, pixel_mean
from models.unifusion.reconstruction import ReconstructionHeads
from models.unifusion.vit import SmallViT, ViTConfig

NamedParameters = Iterator[tuple[str, nn.Parameter]]


class UniFusion(FusionModel):
    """The network: 5,261,019 parameters in the published form, backbone and reconstruction heads not among them.

    It is not symmetric in its two images and has no edit slots. The backbone is no submodule: it appears neither in
    ``parameters()`` nor in ``state_dict()``, stays in eval mode and float32, and follows the network from device to
    device. Keep ``identity()`` beside a checkpoint and ask ``check_identity`` before loading it.

    Sides that are no multiple of 16 are padded inside by reflection, as in the authors' code. Sides too short for that,
    below 9 pixels, repeat their edge.

    Args:
        config: The architecture; the profile ``code`` by default.
        backbone: Frozen by this constructor; ``None`` where the configuration trains an encoder of its own.

    Raises:
        ValueError: The backbone does not fit, is missing, or is one too many.
    """

    mean: Tensor

    def __init__(self, config: UniFusionConfig | None = None, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config = config or PROFILES["code"]
        if config.encoder == "frozen" and backbone is None:
            raise ValueError("the network is built around a backbone, and none is given")
        if config.encoder == "trained" and backbone is not None:
            raise ValueError(f"the network trains an encoder of its own, and {backbone.name} is given")
        if backbone is not None:
            check_backbone(backbone, config.embed_dim)
        # in a tuple, so that it becomes no submodule
        self._frozen: tuple[Backbone, ...] = () if backbone is None else (backbone.eval().requires_grad_(False),)
        self.encoder = _own_encoder(config) if config.encoder == "trained" else None
        self.adapter_a = make_adapter(config)
        self.adapter_b = make_adapter(config)
        self.output = make_output(config)
        self.fusion = FusionNet(config, self.output.maps)
        self.register_buffer("mean", pixel_mean(config.channels), persistent=False)

    @property
    def backbone(self) -> Backbone | None:
        """The frozen backbone, if there is one."""
        return self._frozen[0] if self._frozen else None

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.backbone is not None:
            self.backbone.to(self.mean.device)  # the device only: it stays in float32
        return self

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but for the backbone, which stays in eval mode."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def encode(self, image: Tensor) -> Tensor:
        """Taps of the backbone, shallow to deep, in one map: (N, 1, H, W) in [0, 1] -> (N, 4 · E, h / k, w / k).

        k, a whole number, is 1 but for images larger than the configuration's ``whole_sides``, whose reduced copy the
        backbone sees; h / k and w / k are rounded up. Taps of a frozen backbone are in float32 and without gradient.
        """
        check_image("image", image)
        return self.encode_rgb(image.expand(-1, 3, -1, -1))

    def encode_rgb(self, image: Tensor) -> Tensor:
        """As ``encode`` of an RGB image, (N, 3, H, W)."""
        H, W = image.shape[-2:]
        padded = self._reduced(reflect_to(image, _padded(H), _padded(W)))
        if self.encoder is not None:
            return torch.cat(self.encoder(padded), dim=1)
        (backbone,) = self._frozen
        with torch.no_grad(), _full_precision(image):
            return torch.cat(backbone(padded.float()), dim=1)

    def adapt(
        self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor, *, keep_skip: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features of both images, which the reconstruction heads and ``decode`` read.

        Args:
            a: First source image in [0, 1], (N, 3, H, W) if the output is an RGB image, else (N, 1, H, W).
            b: Second source image, same shape.
            code_a: ``encode`` of the first.
            code_b: ``encode`` of the second.
            keep_skip: 0 for samples that have to do without the image skip, else 1, (N,); ``None`` keeps all.

        Returns:
            Z of either image.

        Raises:
            ValueError: The shapes do not fit together.
        """
        self._check(a, b, code_a, code_b)
        height, width = _padded(a.shape[2]), _padded(a.shape[3])
        x, y = (reflect_to(image, height, width) - self.mean for image in (a, b))
        z_a = self.adapter_a(x, _taps(code_a, height, width), keep_skip)
        z_b = self.adapter_b(y, _taps(code_b, height, width), keep_skip)
        return z_a, z_b

    def decode(self, z_a: Tensor, z_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Fuse features, Z each, to an image like the sources ``a`` and ``b`` of ``adapt``, un-clamped."""
        maps = crop_to(self.fusion(z_a, z_b), a.shape[2], a.shape[3])  # (N, maps, H, W)
        return self.output(maps, a, b)

    def fuse_unclamped(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor, edit: Tensor) -> Tensor:
        """Fuse without the final clamp; ``edit`` is empty. See ``FusionModel.fuse``.

        A network whose output is RGB fuses luminance as gray RGB and answers the luminance of the result.
        """
        check_sources(a, b)
        if self.config.channels == 1:
            return self.decode(*self.adapt(a, b, code_a, code_b), a, b)
        a, b = a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)
        return luminance(self.fuse_rgb_unclamped(a, b, code_a, code_b))

    def fuse_rgb(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor) -> Tensor:
        """Fuse two RGB images, as in the paper.

        Args:
            a: First source image, (N, 3, H, W) in [0, 1], of any size.
            b: Second source image, same shape.
            code_a: ``encode_rgb(a)``.
            code_b: ``encode_rgb(b)``.

        Returns:
            (N, 3, H, W) in [0, 1].

        Raises:
            ValueError: The output of this network is luminance, or the shapes do not fit together.
        """
        return self.fuse_rgb_unclamped(a, b, code_a, code_b).clamp(0.0, 1.0)

    def fuse_rgb_unclamped(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor) -> Tensor:
        """As ``fuse_rgb``, without the final clamp."""
        if self.config.output != "image":
            raise ValueError(f"output {self.config.output!r} is luminance: RGB images need output='image'")
        return self.decode(*self.adapt(a, b, code_a, code_b), a, b)

    def phi(self, heads: ReconstructionHeads | None = None) -> NamedParameters:
        """Named parameters that the reconstruction loss trains, the lower level of the paper's two.

        Args:
            heads: Those trained with the network, if they are wanted too.

        Returns:
            Adapters, an encoder of the network's own, and heads; nothing where nothing is reconstructed.
        """
        if self.config.reconstruction_depth == 0:
            return iter(())
        own = self._named("encoder", "adapter_a", "adapter_b")
        return own if heads is None else chain(own, heads.named_parameters(prefix="reconstruction"))

    def theta(self) -> NamedParameters:
        """Named parameters that the fusion loss trains, the upper level: fusion, and what ``phi`` leaves to it."""
        if self.config.reconstruction_depth == 0:
            return self.named_parameters()
        return self._named("fusion", "output")

    def identity(self) -> dict[str, Any]:
        """What a checkpoint keeps of the backbone, for JSON; empty without one."""
        return {} if self.backbone is None else self.backbone.identity().record()

    def check_identity(self, record: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that was trained on another backbone.

        Args:
            record: What ``identity`` gave for the network of the checkpoint.

        Raises:
            ValueError: It differs; the message names what does.
        """
        if self.backbone is not None:
            self.backbone.identity().check(record)
        elif record:
            raise ValueError(f"the checkpoint was trained on the backbone {record.get('name')!r}, here is none")

    def _named(self, *parts: str) -> NamedParameters:
        return ((name, value) for name, value in self.named_parameters() if name.partition(".")[0] in parts)

    def _grid(self, H: int, W: int) -> tuple[int, int]:
        """Sides of a code, in patches, of an image of H × W pixels."""
        h, w, most = _padded(H) // STRIDE, _padded(W) // STRIDE, self.config.whole_sides
        if most == 0:
            return h, w
        times = (h + w + most - 1) // most
        return (h + times - 1) // times, (w + times - 1) // times

    def _reduced(self, padded: Tensor) -> Tensor:
        """What the backbone sees of an image: all of it, or a copy reduced by a whole number."""
        if self.config.whole_sides == 0:
            return padded
        h, w = self._grid(padded.shape[2], padded.shape[3])
        size = (STRIDE * h, STRIDE * w)
        return F.interpolate(padded, size=size, mode="bilinear", align_corners=False, antialias=True)

    def _check(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor) -> None:
        channels, dim = self.config.channels, self.config.code_dim
        for name, image in (("a", a), ("b", b)):
            if image.ndim != 4 or image.shape[1] != channels:
                raise ValueError(f"{name} must be (N, {channels}, H, W), not {tuple(image.shape)}")
        if a.shape != b.shape:
            raise ValueError(f"a and b must have one size, not {tuple(a.shape)} and {tuple(b.shape)}")
        if torch.compiler.is_exporting():  # to which the sides of a code are sizes of their own
            return
        expected = (len(a), dim, *self._grid(a.shape[2], a.shape[3]))
        for name, code in (("code_a", code_a), ("code_b", code_b)):
            if tuple(code.shape) != expected:
                raise ValueError(f"{name} must be {expected} for images {tuple(a.shape)}, not {tuple(code.shape)}")


def _own_encoder(config: UniFusionConfig) -> SmallViT:
    """Row "w/o DINOv3": patches of 16 and four plain blocks, whose outputs are the taps."""
    size = ViTConfig(config.embed_dim, depth=NUM_TAPS, heads=config.embed_dim // HEAD_DIM, registers=0)
    return SmallViT(size, name="trained-encoder", maskable=False)


def _padded(side: int) -> int:
    return (side + STRIDE - 1) // STRIDE * STRIDE


def _taps(code: Tensor, height: int, width: int) -> Sequence[Tensor]:
    """The taps of a code, (N, E, height / 16, width / 16) each; those of a reduced copy are enlarged."""
    # Always, as an exported graph is not told which it is. A map that has the size already stays as it is, bit by bit.
    size = (height // STRIDE, width // STRIDE)
    return F.interpolate(code, size=size, mode="bilinear", align_corners=False).chunk(NUM_TAPS, dim=1)


def _full_precision(image: Tensor) -> AbstractContextManager[Any]:
    """No autocast. On the meta device, where operations are counted, there is none to switch off."""
    return nullcontext() if image.is_meta else torch.autocast(image.device.type, enabled=False)
