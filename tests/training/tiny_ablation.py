"""Tokenizers and slots for ablations, small enough for tests."""

import json
from contextlib import contextmanager

import torch
from safetensors.torch import save_file

from models.ste import SlotSpec
from models.tokenizer import Tokenizer, TokenizerConfig
from models.tokenizer import config as tokenizer_config

TINY = {
    count: TokenizerConfig(
        f"test-ablation-{count}", 32, 1, 2, num_tokens=count, codebook_size=64, legacy=False, image_size=32
    )
    for count in (32, 64)
}


@contextmanager
def registered():
    """The tokenizers have their places in the registry."""
    tokenizer_config.TOKENIZERS.update({tiny.name: tiny for tiny in TINY.values()})
    yield
    for tiny in TINY.values():
        del tokenizer_config.TOKENIZERS[tiny.name]


def tiny_tokenizer(count=32):
    torch.manual_seed(count)
    return Tokenizer(TINY[count]).eval()


def slot_spec(tokenizer, positions=(12, 18)):
    names = ("sharpen", "smooth", "slot2", "slot3")[: len(positions)]
    effects = {name: {"change": "drawn", "mean_shift": [0.1 + i, 0.2, -0.3]} for i, name in enumerate(names)}
    return SlotSpec(
        tokenizer.tokenizer_id, tokenizer.weights_sha256, tokenizer.num_tokens, 12, positions, (6, 7, 8), names,
        {"method": "supervised", "slot_effects": effects},
    )  # fmt: skip


def write_tokenizers(root):
    """What a bundle holds of a tokenizer and its slots: folders by number of tokens."""
    folders = {}
    for count in TINY:
        tokenizer, folder = tiny_tokenizer(count), root / f"tokens{count}"
        folder.mkdir()
        save_file({k: v.contiguous() for k, v in tokenizer.state_dict().items()}, folder / "tokenizer.safetensors")
        (folder / "slots.json").write_text(json.dumps(slot_spec(tokenizer).to_dict()))
        folders[count] = folder
    return folders
