"""Token-to-map interface π: K tokens and the image they came from become one feature map of its size.

A linear layer over the token axis turns the tokens into a coarse map: it is a learned set of K spatial basis
maps, shared by all channels. The coarse map then grows in three steps; each takes its size from detail
features of the image, so any image size works.

Shape letters: N batch, K tokens, C token channels, D width, R side of the coarse map, H height, W width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LiftActivation = Literal["gelu", "none"]

# Kernel and stride of the detail convolutions, from the smallest map to the largest, without folding.
_SCALES = ((7, 4), (5, 2), (3, 1))


def resize(x: Tensor, size: torch.Size, box: Tensor | None = None) -> Tensor:
    """Resize a map, or the part of it inside a box, bilinearly.

    Args:
        x: (N, D, R, R).
        size: Height and width of the result.
        box: (N, 4), y0, x0, y1, x1 as fractions of the map; the whole map if ``None``. For training only: the
            exported graph has no box.

    Returns:
        (N, D, *size). A box of (0, 0, 1, 1) equals no box up to rounding.
    """
    if box is None:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    y0, x0, y1, x1 = box.float().unbind(dim=1)  # each (N,)
    zero = torch.zeros_like(y0)
    theta = torch.stack([x1 - x0, zero, x0 + x1 - 1, zero, y1 - y0, y0 + y1 - 1], dim=1)  # (N, 6)
    grid = F.affine_grid(theta.reshape(-1, 2, 3), [*x.shape[:2], *size], align_corners=False)  # (N, *size, 2)
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False).to(x.dtype)


class TokenMap(nn.Module):
    """The interface π: 137,409 parameters at K = 32 and width 64.

    Args:
        num_tokens: K.
        token_dim: C.
        width: D.
        map_size: R.
        lift_act: Nonlinearity after the lift. Without it the effect of a token edit on the coarse map is the
            same for every image.
        detail: ``False`` leaves the image's detail features out (ablation): the map then depends on
            tokens only.
        fold: The map has 1/fold of the image's sides, which must be multiples of it.
    """

    def __init__(
        self,
        num_tokens: int,
        *,
        token_dim: int = 12,
        width: int = 64,
        map_size: int = 32,
        lift_act: LiftActivation = "gelu",
        detail: bool = True,
        fold: int = 1,
    ) -> None:
        super().__init__()
        if lift_act not in ("gelu", "none"):
            raise ValueError(f"lift_act must be 'gelu' or 'none', not {lift_act!r}")
        self.map_size = map_size
        self.lift = nn.Linear(token_dim, width)
        self.lift_act: nn.Module = nn.GELU() if lift_act == "gelu" else nn.Identity()
        self.spread = nn.Linear(num_tokens, map_size * map_size, bias=False)
        self.local = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.local_gain = nn.Parameter(torch.tensor(0.1))
        self.detail = detail
        # a wider step needs a wider window, or it would skip pixels
        scales = [(kernel + 2 * (fold - 1), stride * fold) for kernel, stride in _SCALES]
        self.strides = [stride for _, stride in scales]
        self.details = nn.ModuleList(
            nn.Conv2d(1, width, kernel, stride=stride, padding=kernel // 2)
            for kernel, stride in (scales if detail else ())
        )
        merged = 2 * width if detail else width
        self.merges = nn.ModuleList(nn.Conv2d(merged, width, 1, bias=False) for _ in _SCALES)
        self.out = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def coarse(self, tokens: Tensor) -> Tensor:
        """Lift the tokens and spread them over the plane: (N, K, C) -> (N, D, R, R)."""
        lifted = self.lift_act(self.lift(tokens))  # (N, K, D)
        plane: Tensor = self.spread(lifted.transpose(1, 2))  # (N, D, R·R)
        return plane.reshape(-1, plane.shape[1], self.map_size, self.map_size)

    def forward(self, tokens: Tensor, image: Tensor, *, box: Tensor | None = None) -> Tensor:
        """Map tokens to features.

        Args:
            tokens: (N, K, C), possibly edited.
            image: The image that the tokens encode, or a crop of it, (N, 1, H, W).
            box: Where the crop lies in the encoded image, (N, 4), y0, x0, y1, x1 as fractions; ``None`` if
                ``image`` is the whole. The coarse map is cropped alike.

        Returns:
            (N, D, H / fold, W / fold).
        """
        y = self.coarse(tokens)  # (N, D, R, R)
        y = y + self.local_gain * F.gelu(self.local(y))
        for step, merge in enumerate(self.merges):
            if self.detail:
                e = F.gelu(self.details[step](image))  # (N, D, ⌈H/stride⌉, ⌈W/stride⌉)
                y = torch.cat([resize(y, e.shape[-2:], box), e], dim=1)
            else:
                stride = self.strides[step]
                y = resize(y, image[..., ::stride, ::stride].shape[-2:], box)
            y = F.gelu(merge(y))
            box = None  # from here on the map is the crop
        out: Tensor = self.out(y)
        return out
