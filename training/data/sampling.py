"""Random square samples of image pairs, with the tokens that belong to them.

Tokens describe a whole frame. A crop therefore keeps the tokens of its frame and says where in it it lies (``box``),
so that the network meets the same relation of tokens and places as at native size. Tokens of a frame as it is on
disk, in all four flips, are encoded once; a frame whose tone was changed is encoded anew from a small copy of it
that went through the same change.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from models.interface import TokenSource
from training.clock import Clock
from training.config import Strict
from training.data.pairs import ImagePairs
from training.data.tone import ToneConfig, apply_tone, draw_tone

FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
"""Axes that each flip variant reverses: none, left-right, up-down, both."""


class Sampling(Strict):
    """How batches are cut from the pairs.

    Attributes:
        batch: Samples per step and device.
        sides: A batch has one of these sides, drawn at random; multiples of 8.
        crop_share: Share of the samples that are native-size windows; the others are whole frames, squashed.
        zoom: Largest factor of the random resize of a window, at least 1.
        flip_vertical: Whether samples are also turned upside down (medical slices, not street scenes).
        tokens: ``whole`` frame with the place of the crop in it, or those of the ``crop`` itself.
        tone_a: Tone changes of the first source.
        tone_b: Tone changes of the second.
        noise_probability: Share of the inputs that carry extra sensor noise; the targets do not.
        noise_sigma: Its largest standard deviation.
    """

    batch: int = Field(ge=1)
    sides: list[Annotated[int, Field(ge=32, multiple_of=8)]] = Field(min_length=1)
    crop_share: float = 0.5
    zoom: float = Field(default=1.0, ge=1.0)
    flip_vertical: bool = False
    tokens: Literal["whole", "crop"] = "whole"
    tone_a: ToneConfig = ToneConfig(probability=0.0)
    tone_b: ToneConfig = ToneConfig(probability=0.0)
    noise_probability: float = 0.0
    noise_sigma: float = 0.0


class Place(NamedTuple):
    """Where a sample comes from: pair, flip variant, and window (top, left, height, width) of the flipped frame."""

    row: int
    flip: int
    top: int
    left: int
    height: int
    width: int


class Frames(NamedTuple):
    """What the samples were cut from, at the tokenizer's size and with the same change of tone.

    A target that depends on the whole frame (its contrast, its large-scale tone) is the same for every crop of it.

    Attributes:
        a: Frames of the first source, (N, 1, S, S) in [0, 1].
        b: Frames of the second.
        box: Place of each sample in its frame, (N, 4), y0, x0, y1, x1 as fractions; None where it is the whole.
    """

    a: Tensor
    b: Tensor
    box: Tensor | None = None


class Batch(NamedTuple):
    """One batch, N samples of side R.

    Attributes:
        a: First source as the loss wants it, (N, 1, R, R) in [0, 1].
        b: Second source.
        input_a: First source as the network sees it, with sensor noise.
        input_b: Second source.
        code_a: Tokens of the first, (N, K, C).
        code_b: Tokens of the second.
        frames: Small copies of what the tokens describe, and the place of the samples in it.
    """

    a: Tensor
    b: Tensor
    input_a: Tensor
    input_b: Tensor
    code_a: Tensor
    code_b: Tensor
    frames: Frames


@torch.no_grad()
def encode(tokenizer: TokenSource, images: Tensor) -> Tensor:
    """Tokens in float32 whatever precision the rest has: (N, 1, H, W) -> (N, K, C)."""
    with torch.autocast(images.device.type, enabled=False):
        return tokenizer.encode(images.float())


class TokenCache:
    """Tokens of all frames of some pairs in all four flips, and small copies of the frames.

    Attributes:
        codes: (2, M, 4, K, C) float32: source, pair, flip.
        squares: (2, M, S, S) uint8: every frame at the tokenizer's size.
    """

    def __init__(self, pairs: ImagePairs, tokenizer: TokenSource, device: torch.device) -> None:
        S, M = tokenizer.config.image_size, len(pairs)
        self.squares = torch.empty(2, M, S, S, dtype=torch.uint8)
        self.codes = torch.empty(2, M, len(FLIPS), tokenizer.num_tokens, tokenizer.token_dim)
        for row in range(M):
            for side, image in enumerate(pairs.full(row)):
                square = tokenizer.prepare(image.to(device))[:, :1]  # (1, 1, S, S)
                flips = torch.cat([square.flip(axes) if axes else square for axes in FLIPS])
                self.codes[side, row] = encode(tokenizer, flips).cpu()
                self.squares[side, row] = (square[0, 0] * 255).round().to(torch.uint8).cpu()

    def frames(self, side: int, places: list[Place]) -> Tensor:
        """Small copies of the samples' frames, flipped as they are: (N, 1, S, S) in [0, 1]."""
        rows = [self.squares[side, p.row][None, None].float() / 255.0 for p in places]
        return torch.cat([x.flip(FLIPS[p.flip]) if p.flip else x for x, p in zip(rows, places, strict=True)])


class PairSampler:
    """Draws batches.

    Args:
        pairs: What to draw from.
        config: How.
        tokenizer: Frozen; on the device.
        clock: Measures the encoding; its device is where batches go.
    """

    def __init__(self, pairs: ImagePairs, config: Sampling, tokenizer: TokenSource, clock: Clock) -> None:
        self.pairs, self.config, self.tokenizer = pairs, config, tokenizer
        self.clock, self.device = clock, clock.device
        self.cache = TokenCache(pairs, tokenizer, clock.device) if config.tokens == "whole" else None

    def draw(self) -> Batch:
        """A random batch."""
        s = self.config
        side = s.sides[int(torch.randint(len(s.sides), ()))]
        places = [self._place(side) for _ in range(s.batch)]
        sources = torch.stack([self._cut(place, side) for place in places]).to(self.device)  # (N, 2, R, R)
        outs, codes, frames = [], [], []
        for index, tone in enumerate((s.tone_a, s.tone_b)):
            x = sources[:, index : index + 1]
            draw = draw_tone(len(x), tone, self.device)
            mean = self._frame_mean(index, places, x)
            y = apply_tone(x, draw, mean)
            outs.append(y)
            if self.cache is None:
                frames.append(y)
            else:
                small = self.cache.frames(index, places).to(self.device)
                frames.append(apply_tone(small, draw, mean, sharp=True))
            with self.clock.part("encode"):
                codes.append(self._codes(index, places, draw.changed, frames[-1]))
        a, b = outs
        box = None if self.cache is None else torch.tensor([self._box(p) for p in places], device=self.device)
        seen = Frames(frames[0], frames[1], box)
        return Batch(a, b, self._noise(a), self._noise(b), codes[0], codes[1], seen)

    def _place(self, side: int) -> Place:
        s = self.config
        row = int(torch.randint(len(self.pairs), ()))
        flip = int(torch.randint(4 if s.flip_vertical else 2, ()))
        H, W = self.pairs.pairs[row][0].shape
        if not bool(torch.rand(()) < s.crop_share):
            return Place(row, flip, 0, 0, H, W)
        factor = s.zoom ** float(torch.empty(()).uniform_(-1.0, 1.0))
        cut = min(H, W, max(32, round(side * factor)))
        top, left = int(torch.randint(H - cut + 1, ())), int(torch.randint(W - cut + 1, ()))
        return Place(row, flip, top, left, cut, cut)

    def _cut(self, place: Place, side: int) -> Tensor:
        """Both sources of one sample, (2, side, side) in [0, 1]."""
        window = []
        for image in self.pairs.pairs[place.row]:
            H, W = image.shape
            # the window is given in the flipped frame: undo the flip for its corner, then flip what was cut
            top = H - place.top - place.height if 2 in FLIPS[place.flip] else place.top
            left = W - place.left - place.width if 3 in FLIPS[place.flip] else place.left
            window.append(image[top : top + place.height, left : left + place.width])
        pair = torch.from_numpy(np.stack(window))[None].float() / 255.0
        if pair.shape[-2:] != (side, side):
            pair = F.interpolate(pair, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        axes = FLIPS[place.flip]
        return (pair.flip(axes) if axes else pair)[0]

    def _box(self, place: Place) -> list[float]:
        H, W = self.pairs.pairs[place.row][0].shape
        return [place.top / H, place.left / W, (place.top + place.height) / H, (place.left + place.width) / W]

    def _frame_mean(self, index: int, places: list[Place], x: Tensor) -> Tensor:
        """Mean grey of each sample's frame (of the crop itself if that is encoded), (N, 1, 1, 1)."""
        if self.cache is None:
            return x.mean(dim=(2, 3), keepdim=True)
        rows = self.cache.squares[index, [p.row for p in places]].float().mean(dim=(1, 2)) / 255.0
        return rows.reshape(-1, 1, 1, 1).to(self.device)

    def _codes(self, index: int, places: list[Place], changed: Tensor, frames: Tensor) -> Tensor:
        """Tokens of the frames: from the cache, but for those of another tone."""
        if self.cache is None:
            return encode(self.tokenizer, frames)
        codes = self.cache.codes[index, [p.row for p in places], [p.flip for p in places]].to(self.device)
        rows = changed.flatten().nonzero().flatten()
        if len(rows):
            codes[rows] = encode(self.tokenizer, frames[rows])
        return codes

    def _noise(self, x: Tensor) -> Tensor:
        s = self.config
        if s.noise_probability == 0.0:
            return x
        level = torch.rand(len(x), 1, 1, 1, device=x.device) * s.noise_sigma
        level = level * (torch.rand(len(x), 1, 1, 1, device=x.device) < s.noise_probability)
        return (x + level * torch.randn_like(x)).clamp(0, 1)
