"""A tiny data root with pairs drawn by formula, and recipes small enough for tests."""

import numpy as np
import pytest
from PIL import Image

from models.tokenizer.config import TOKENIZERS
from tests.training import tiny_runs


def draw(rng, height, width):
    """A scene of smooth tone and a few rectangles, uint8."""
    y, x = np.mgrid[0:height, 0:width]
    image = 60 + 80 * np.sin(x / rng.uniform(10, 30)) * np.cos(y / rng.uniform(10, 30))
    for _ in range(4):
        top, left = rng.integers(0, height - 10), rng.integers(0, width - 10)
        image[top : top + 12, left : left + 9] = rng.uniform(0, 255)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    for part, count in (("train", 4), ("val", 2)):
        for kind in ("visible", "infrared"):
            folder = root / "ivf" / part / kind
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw(rng, 70 + i, 91)).save(folder / f"scene_{i}.png")
    return root


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """The tokenizer of ``tiny_runs`` has its place in the registry."""
    tiny_runs.register()
    yield tiny_runs.TINY
    del TOKENIZERS[tiny_runs.TINY.name]


@pytest.fixture(scope="session")
def chain(data_root, tiny_tokenizer, tmp_path_factory):
    """A folder with ``tokenizer``, ``slots.json`` and ``fusion``, each made by its command."""
    return tiny_runs.make_chain(data_root, tmp_path_factory.mktemp("chain"))
