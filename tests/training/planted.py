"""A network that answers to two known token places, so that a search can be seen to find them."""

import torch
from torch.nn import functional as F

from models.token_fusion import Features, TokenFusionModel
from models.tokenizer import Tokenizer, TokenizerConfig
from training.probing.edited import EditedFusion
from training.probing.settings import CheckSettings, SearchSettings

TINY = TokenizerConfig("test-probe", 32, 1, 2, num_tokens=8, codebook_size=64, legacy=False, image_size=32)
WEIGHTS = (1.0, 1.0, 1.0, 3.0)
STRONG, WEAK = (5, (3, 4, 5)), (2, (9, 10, 11))
SEARCH = SearchSettings(steps=120, batch=4, seeds=3, window=30)
CHECK = CheckSettings(check_pairs=4)


class Planted(TokenFusionModel):
    """The mean of the images, whose sharpness depends on one token strongly and on another weakly."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, None)
        self.gain = torch.nn.Parameter(torch.tensor([0.5, 0.2]))

    def features(self, image, code, *, edit=None):
        return Features(image, code if edit is None else self.ste(code, edit))

    def decode_pair(self, a, b, features_a, features_b):
        mean = (a + b) / 2
        blurred = F.avg_pool2d(F.pad(mean, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
        code = features_a.detail + features_b.detail
        places = [code[:, position, list(channels)].mean(dim=1) for position, channels in (STRONG, WEAK)]
        sharpness = 0.6 + self.gain[0] * places[0] + self.gain[1] * places[1]
        return blurred + sharpness[:, None, None, None] * (mean - blurred)

    def decode_single(self, features, reference):
        return reference

    def fuse_unclamped(self, a, b, code_a, code_b, edit):
        return self.decode_pair(a, b, self.features(a, code_a, edit=edit), self.features(b, code_b, edit=edit))

    def fusion_parameters(self):
        return []


def make_tokenizer():
    torch.manual_seed(3)
    return Tokenizer(TINY).eval()


def make_subject(tokenizer):
    """The network with 6 drawn pairs to probe it on."""
    generator = torch.Generator().manual_seed(1)
    coarse = F.interpolate(torch.rand(12, 1, 6, 6, generator=generator), size=(32, 32), mode="bicubic").clamp(0, 1)
    images = 0.8 * coarse + 0.2 * torch.rand(12, 1, 32, 32, generator=generator)
    return EditedFusion(Planted(tokenizer), *images.split(6), WEIGHTS)
