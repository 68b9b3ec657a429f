"""The inspection of a tokenizer: measures on known cases, report, pictures, and the check of known codes."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models.tokenizer import TiTok, TokenizerConfig
from models.tokenizer import config as tokenizer_config
from training import __main__ as command_line
from training.inspection import measures
from training.tokenizer import Autoencoder

LOCAL = TokenizerConfig("inspect-local", 32, 1, 2, codebook_size=64, legacy=False, image_size=32, decoder_layers=1)
OFFICIAL = TokenizerConfig("inspect-official", 32, 1, 2, num_tokens=8, codebook_size=64, image_size=32, pixel_width=32)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """A run folder and a file of official weights, untrained."""
    tokenizer_config.TOKENIZERS.update({c.name: c for c in (LOCAL, OFFICIAL)})
    torch.manual_seed(5)
    run, official = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("official") / "model.safetensors"
    model, titok = Autoencoder(LOCAL.name), TiTok(OFFICIAL)
    for tokenizer in (model.tokenizer, titok):
        torch.nn.init.normal_(tokenizer.quantize.embedding.weight)
        attention = tokenizer.encoder.transformer[0].attn  # untrained, it would hardly look at the image
        for weight in (tokenizer.encoder.patch_embed.weight, attention.in_proj_weight, attention.out_proj.weight):
            torch.nn.init.normal_(weight)
    torch.save({"kind": "tokenizer", "name": LOCAL.name, "average": model.state_dict()}, run / "last.pt")
    save_file(titok.state_dict(), official)
    yield {"local": run, "official": official, "titok": titok}
    for config in (LOCAL, OFFICIAL):
        del tokenizer_config.TOKENIZERS[config.name]


def inspect(*words):
    return command_line.main(["inspect", *map(str, words)])


def test_psnr_of_a_known_error():
    x = torch.full((2, 1, 16, 16), 0.5)
    y = x.clone()
    y[0] += 0.1
    torch.testing.assert_close(measures.psnr(x, y), torch.tensor([20.0, 100.0]))


@pytest.mark.parametrize("side", measures.THUMBNAILS)
def test_a_thumbnail_keeps_area_means_and_not_more(side):
    x = torch.rand(1, 1, 32, 32)
    y = measures.thumbnail(x, side)
    assert y.shape == x.shape
    if side == 1:
        torch.testing.assert_close(y, x.mean().expand_as(y))
    assert y.std() < x.std()
    flat = torch.full_like(x, 0.3)
    torch.testing.assert_close(measures.thumbnail(flat, side), flat)


def test_finer_thumbnails_are_closer():
    y, x = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 9, 64), indexing="ij")
    image = (0.5 + 0.4 * torch.sin(x) * torch.cos(y))[None, None]
    scores = [float(measures.psnr(image, measures.thumbnail(image, side))) for side in measures.THUMBNAILS]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 5


def test_fidelity_tells_tone_from_error():
    x = torch.rand(6, 1, 32, 32) * torch.linspace(0.2, 1.0, 6).view(6, 1, 1, 1)
    same = measures.measure_fidelity(x, x)
    assert same.psnr.mean == 100
    assert same.ssim.mean == pytest.approx(1, abs=1e-4)
    assert same.mse.std == 0
    assert same.contrast_kept == pytest.approx(1)
    dim = measures.measure_fidelity(x, 0.5 * x)  # tone is halved, yet perfectly ordered
    assert dim.brightness_correlation == pytest.approx(1)
    assert dim.contrast_correlation == pytest.approx(1)
    assert dim.contrast_kept == pytest.approx(0.5)
    assert dim.psnr.mean < 20
    turned = measures.measure_fidelity(x, 1 - x)
    assert turned.brightness_correlation == pytest.approx(-1)


def test_correlation_is_left_out_where_it_means_nothing():
    x = torch.rand(4, 1, 32, 32)
    grey = measures.measure_fidelity(x, torch.full_like(x, 0.5))
    assert grey.brightness_correlation is None
    assert measures.measure_fidelity(x[:1], x[:1]).contrast_correlation is None


def test_code_use_of_a_known_table():
    indices = torch.tensor([[0, 5, 2], [1, 5, 2], [2, 5, 3], [3, 5, 3]])
    use = measures.measure_codes(indices, 8)
    assert use.tokens == 12
    assert use.used == 5
    assert use.share == 5 / 8
    assert use.position_used == [4, 1, 2]
    assert use.position_entropy == pytest.approx([2, 0, 1])
    p = np.array([1, 1, 3, 3, 4]) / 12
    assert use.perplexity == pytest.approx(2 ** -(p * np.log2(p)).sum())


@pytest.mark.parametrize(("kind", "codes"), [("local", 32), ("official", 8)])
def test_report_and_pictures(tokenizers, data_root, tmp_path, capsys, kind, codes):
    folders = ["ivf/train/visible", "ivf/val/infrared"]
    words = [word for name in folders for word in ("--folder", name)]
    inspect("--tokenizer", tokenizers[kind], "--data", data_root, *words, "--out", tmp_path, "--show", 3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["folders"]) == folders
    assert [entry["images"] for entry in report["folders"].values()] == [4, 2]
    first = report["folders"][folders[0]]
    assert 0 < first["psnr"]["mean"] < 100
    assert -1 <= first["ssim"]["mean"] <= 1
    assert list(first["thumbnail_psnr"]) == ["1", "2", "4", "8"]
    assert len(first["codes"]["position_entropy"]) == report["num_tokens"] == codes
    assert report["codes"]["tokens"] == 6 * codes
    assert report["bits_per_image"] == codes * math.log2(64)
    text = (tmp_path / "report.md").read_text()
    assert capsys.readouterr().out == text
    assert f"| {folders[0]} | 4 | {first['psnr']['mean']:.2f} ±" in text
    with Image.open(tmp_path / "reconstructions.png") as picture:
        assert picture.height >= 2 * 2 * 32
    with Image.open(tmp_path / "usage.png") as picture:
        assert min(picture.size) > 300


def test_picture_shows_images_above_their_reconstructions(tokenizers, data_root, tmp_path):
    from training.tokenizer_files import load_reconstructor

    inspect("--tokenizer", tokenizers["local"], "--data", data_root, "--folder", "ivf/val/visible", "--out", tmp_path)
    with Image.open(data_root / "ivf/val/visible/scene_0.png") as image:
        square = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BICUBIC))
    with Image.open(tmp_path / "reconstructions.png") as picture:
        pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels[16:48, :32], square)
    x = torch.from_numpy(square.copy())[None, None].float() / 255
    y = load_reconstructor(tokenizers["local"]).reconstruct(x)[0, 0].numpy()
    np.testing.assert_allclose(pixels[50:82, :32] / 255, y, atol=1 / 255)


def test_limit_spreads_over_the_folder(tokenizers, data_root, tmp_path):
    words = ["--data", data_root, "--folder", "ivf/train/visible", "--folder", "ivf/train/visible", "--limit", 2]
    inspect("--tokenizer", tokenizers["local"], *words, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["images"] for entry in report["folders"].values()] == [2]


@pytest.fixture
def colour_image(tmp_path):
    path = tmp_path / "colour.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


def test_known_codes_of_a_colour_image_are_confirmed(tokenizers, colour_image, capsys):
    rgb = np.asarray(Image.open(colour_image)).transpose(2, 0, 1)[None] / np.float32(255)
    codes = tokenizers["titok"].indices(torch.from_numpy(rgb))[0].tolist()
    assert inspect("--tokenizer", tokenizers["official"], "--image", colour_image, "--expect-codes", *codes[:5]) == 0
    out = capsys.readouterr().out
    assert f"colour.png: {' '.join(map(str, codes))}" in out
    assert "the first 5 codes are as expected" in out


def test_other_codes_are_an_error_that_says_where(tokenizers, colour_image):
    rgb = np.asarray(Image.open(colour_image)).transpose(2, 0, 1)[None] / np.float32(255)
    codes = tokenizers["titok"].indices(torch.from_numpy(rgb))[0].tolist()
    wrong = [*codes[:2], codes[2] + 1, codes[3]]
    words = ["--tokenizer", tokenizers["official"], "--image", colour_image, "--expect-codes"]
    with pytest.raises(SystemExit, match=rf"1 of 4 codes differ, the first at position 2: {codes[2]}, expected"):
        inspect(*words, *wrong)
    with pytest.raises(SystemExit, match="gives 9 codes, the tokenizer has 8 tokens"):
        inspect(*words, *[0] * 9)


def test_codes_need_no_decoder_and_local_ones_take_luminance(tokenizers, colour_image, tmp_path, capsys):
    with Image.open(colour_image) as image:
        image.convert("L").save(tmp_path / "grey.png")
    for path in (colour_image, tmp_path / "grey.png"):
        inspect("--tokenizer", tokenizers["local"], "--image", path)
    colour, grey = (line.partition(".png: ")[2] for line in capsys.readouterr().out.splitlines())
    assert colour == grey
    assert len(colour.split()) == 32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "give --data, --folder and --out for a report, or --image"),
        (["--data", "x", "--out", "x"], "give --data, --folder and --out"),
        (["--expect-codes", "1"], "--expect-codes needs --image"),
        (["--image", "x.png", "--out", "x"], "--image stands alone"),
        (["--image", "missing.png"], "missing.png"),
        (["--data", "x", "--folder", "y", "--out", "x", "--show", "0"], "must be 1 or more"),
        (["--data", "x", "--folder", "y", "--out", "x", "--limit", "-1"], "must be 1 or more"),
        (["--data", "nowhere", "--folder", "y", "--out", "x"], "no folder nowhere/y"),
    ],
)
def test_wrong_calls_end_with_one_line(tokenizers, words, message):
    with pytest.raises(SystemExit, match=rf"^error: [^\n]*{message}[^\n]*$"):
        inspect("--tokenizer", tokenizers["local"], *words)
