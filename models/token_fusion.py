"""What all TiTok+STE networks share: a frozen tokenizer, edit slots, and two stages of training.

Shape letters: N batch, K tokens, C token channels, D width, H height, W image width, S edit slots.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from models.base import FusionModel, check_image, check_sources
from models.interface import TokenSource
from models.ste import SelectiveTokenEditing, SlotSpec


class Features(NamedTuple):
    """The two parts of one image's features: base (N, D, h, w) and detail (N, D', h', w')."""

    base: Tensor
    detail: Tensor


class TokenFusionModel(FusionModel):
    """A fusion network around a frozen tokenizer.

    The tokenizer is no submodule: it appears neither in ``parameters()`` nor in ``state_dict()``, stays in
    eval mode and float32, and follows the network from device to device. Save its id beside a checkpoint.

    Args:
        tokenizer: Frozen by this constructor; a tokenizer, or what an ablation puts in its place.
        slots: Where tokens are edited; ``None`` for a model without edit slots.

    Raises:
        ValueError: The slots were probed on another tokenizer.
    """

    def __init__(self, tokenizer: TokenSource, slots: SlotSpec | None) -> None:
        super().__init__()
        self._frozen = (tokenizer.eval().requires_grad_(False),)
        if slots is None:
            self.ste = SelectiveTokenEditing(
                tokenizer.num_tokens, token_dim=tokenizer.token_dim, positions=(), channels=()
            )
        else:
            slots.check_tokenizer(tokenizer.tokenizer_id)
            self.slots = slots.names
            self.default_edit = (1.0,) * len(slots.names)
            self.ste = SelectiveTokenEditing.from_spec(slots)

    @property
    def tokenizer(self) -> TokenSource:
        """The frozen tokenizer."""
        return self._frozen[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.tokenizer.to(self.ste.delta.device)  # the device only: it stays in float32
        return self

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Tokens of one image, in float32 and without gradient: (N, 1, H, W) -> (N, K, C)."""
        check_image("image", image)
        with torch.autocast(image.device.type, enabled=False):
            return self.tokenizer.encode(image.float())

    @abstractmethod
    def features(
        self, image: Tensor, code: Tensor, *, edit: Tensor | None = None, box: Tensor | None = None
    ) -> Features:
        """Split one image into base and detail features.

        Args:
            image: (N, 1, H, W) in [0, 1].
            code: Tokens of the image, (N, K, C).
            edit: Strength per slot, (N, S); ``None`` leaves the tokens unedited (stage I).
            box: If ``image`` is a crop: its place in the encoded image, (N, 4), y0, x0, y1, x1 as fractions.
        """

    @abstractmethod
    def decode_pair(
        self, a: Tensor, b: Tensor, features_a: Features, features_b: Features, *, centre: Tensor | None = None
    ) -> Tensor:
        """Fused image (N, 1, H, W), un-clamped, from both images and their features (stage II).

        Args:
            a: First image.
            b: Second image.
            features_a: Features of the first.
            features_b: Features of the second.
            centre: Mean level of the whole images if ``a`` and ``b`` are crops of them, (N, 1, 1, 1).
        """

    @abstractmethod
    def decode_single(self, features: Features, reference: Tensor) -> Tensor:
        """Rebuild one image from its own features, un-clamped (stage I, eq. 14).

        Args:
            features: Of that image.
            reference: What the residual is added to, (N, 1, H, W): the image itself or zeros.
        """

    @abstractmethod
    def fusion_parameters(self) -> list[nn.Parameter]:
        """What is new in stage II, the token offsets aside."""

    def edit_parameters(self) -> list[nn.Parameter]:
        """The token offsets: they need a larger learning rate and no gradient clipping."""
        return list(self.ste.parameters())

    def stage1_parameters(self) -> list[nn.Parameter]:
        """What stage I trains: everything else."""
        later = {id(p) for p in (*self.fusion_parameters(), *self.edit_parameters())}
        return [p for p in self.parameters() if id(p) not in later]

    def check_pair(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor) -> None:
        """Refuse sources or tokens of the wrong shape.

        Raises:
            ValueError: The message names the argument, the shape wanted and the shape given.
        """
        check_sources(a, b)
        expected = (self.tokenizer.num_tokens, self.tokenizer.token_dim)
        for name, code in (("code_a", code_a), ("code_b", code_b)):
            if tuple(code.shape[1:]) != expected:
                raise ValueError(f"{name} must be (N, {expected[0]}, {expected[1]}), not {tuple(code.shape)}")
