"""No interface at all: the control that shows what the token branch is worth."""

from __future__ import annotations

from torch import Tensor

from models.interface.square import StandIn, StandInConfig


class NoTokens(StandIn):
    """Tokens that are all zero, so that the network sees nothing but the image's own detail features.

    Token edits still act: an edit of zero tokens is the offset itself, which carries the strength into the network.

    Args:
        num_tokens: K.
        token_dim: C.
        image_size: Side of the small copies that training keeps of every frame. Give that of the tokenizer with
            which the control is compared, so that both see the same samples.

    Raises:
        ValueError: A size is below 1.
    """

    tokenizer_id = "none"

    def __init__(self, num_tokens: int = 32, token_dim: int = 12, *, image_size: int = 256) -> None:
        super().__init__(StandInConfig("none", image_size, num_tokens, token_dim))

    def encode(self, image: Tensor) -> Tensor:
        """Zeros, whatever the image: (N, 1, H, W) -> (N, K, C)."""
        return image.new_zeros(len(image), self.num_tokens, self.token_dim)
