"""A tokenizer small enough for tests, and edit slots for it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.ste import SlotSpec


class StubTokenizer(nn.Module):
    """A seeded random projection of the image pooled to 8×8: unit-norm tokens, no weights to download."""

    def __init__(self, num_tokens=32, token_dim=12, tokenizer_id="stub:0"):
        super().__init__()
        self.num_tokens = num_tokens
        self.token_dim = token_dim
        self.tokenizer_id = tokenizer_id
        self.project = nn.Linear(64, num_tokens * token_dim)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def encode(self, image):
        pooled = F.adaptive_avg_pool2d(image, 8).flatten(1)  # (N, 64)
        return F.normalize(self.project(pooled).reshape(-1, self.num_tokens, self.token_dim), dim=-1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_tokenizer():
    return StubTokenizer


@pytest.fixture
def tokenizer():
    return StubTokenizer()


@pytest.fixture(scope="session")
def slots():
    return SlotSpec("stub:0", "0" * 64, 32, 12, (12, 18), (6, 7, 8), ("sharpen", "smooth"))
