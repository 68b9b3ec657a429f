"""Other sources of tokens: backbones from the user's files."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from training.ablation import backbones
from training.data.images import DataError


class FakeViT(nn.Module):
    """Has what a timm vision transformer has, as far as it is used."""

    num_prefix_tokens, num_features = 5, 16
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 16, 16, stride=16)

    def forward_features(self, image):
        patches = self.layer(image).flatten(2).transpose(1, 2)
        return torch.cat([torch.full((len(patches), 5, 16), 1e3), patches], dim=1)


def fake_timm(monkeypatch, make):
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=make))


def test_a_backbone_comes_from_the_users_file_without_prefix_tokens(monkeypatch, tmp_path):
    asked = []

    def create_model(name, **options):
        asked.append((name, options))
        torch.manual_seed(0)
        return FakeViT()

    fake_timm(monkeypatch, create_model)
    (tmp_path / "dino.safetensors").touch()
    source = backbones.load_interface("dinov3", tmp_path / "dino.safetensors", num_tokens=32, token_dim=12)
    assert asked[0][1] == {"pretrained": False, "checkpoint_path": str(tmp_path / "dino.safetensors")}
    image = torch.rand(1, 1, 256, 256)
    assert source.encode(image).shape == (1, 32, 12)
    assert source.backbone(image.expand(-1, 3, -1, -1)).abs().max() < 100
    assert source.tokenizer_id.startswith("dinov3:")


def test_bad_backbone_files_and_a_missing_timm_are_explained(monkeypatch, tmp_path):
    def fail(name, **options):
        raise RuntimeError("Error(s) in loading state_dict\nmissing keys")

    with pytest.raises(DataError, match="no file"):
        backbones.load_interface("clip", tmp_path / "clip.bin", num_tokens=32, token_dim=12)
    (tmp_path / "clip.bin").touch()
    fake_timm(monkeypatch, fail)
    with pytest.raises(DataError, match=r"holds no vit_base_patch16_clip.*loading state_dict$"):
        backbones.load_interface("clip", tmp_path / "clip.bin", num_tokens=32, token_dim=12)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match=r"pip install 'pairfuse\[interfaces\]'"):
        backbones.load_interface("clip", tmp_path / "clip.bin", num_tokens=32, token_dim=12)
