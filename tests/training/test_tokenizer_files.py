"""Tokenizers from disk: runs, bundles, official weights of both kinds, and files that must be refused."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from models.tokenizer import TiTok, Tokenizer, TokenizerConfig
from models.tokenizer import config as tokenizer_config
from training import __main__ as command_line
from training.data.images import DataError
from training.tokenizer import Autoencoder
from training.tokenizer_files import load_reconstructor, load_tokenizer

LOCAL = TokenizerConfig("files-local", 32, 1, 2, codebook_size=64, legacy=False, image_size=32, decoder_layers=1)
OFFICIAL = TokenizerConfig("files-official", 32, 1, 2, num_tokens=8, codebook_size=64, image_size=32, pixel_width=32)


@pytest.fixture(scope="module", autouse=True)
def tiny_tokenizers():
    tokenizer_config.TOKENIZERS.update({c.name: c for c in (LOCAL, OFFICIAL)})
    yield
    for config in (LOCAL, OFFICIAL):
        del tokenizer_config.TOKENIZERS[config.name]


@pytest.fixture(scope="module")
def titok():
    torch.manual_seed(1)
    model = TiTok(OFFICIAL).eval().requires_grad_(False)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model


@pytest.fixture(scope="module")
def state(titok):
    return {name: value.clone() for name, value in titok.state_dict().items()}


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(2)
    model = Autoencoder(LOCAL.name).eval()
    folder = tmp_path / "run"
    folder.mkdir()
    average = {name: value.half().float() for name, value in model.state_dict().items()}
    model.load_state_dict(average)
    torch.save({"kind": "tokenizer", "name": LOCAL.name, "average": average}, folder / "last.pt")
    return folder, model


def image(seed=0):
    return torch.rand(2, 1, 40, 50, generator=torch.Generator().manual_seed(seed))


def make_bundle(folder, tokenizer, name=None):
    folder.mkdir()
    save_file(tokenizer.state_dict(), folder / "tokenizer.safetensors")
    (folder / "slots.json").write_text(json.dumps({"tokenizer_id": name or tokenizer.tokenizer_id}))
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin", "old bin", "folder", "only file of a folder"])
def test_official_weights_are_known_by_their_tensors(tmp_path, titok, state, kind):
    path = tmp_path / (
        "x.bin" if "bin" in kind else "x.safetensors" if kind == "only file of a folder" else "model.safetensors"
    )
    if "bin" in kind:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "bin")
    else:
        save_file(state, path)
    tokenizer = load_tokenizer(tmp_path if "folder" in kind else path)
    assert type(tokenizer) is Tokenizer
    assert tokenizer.tokenizer_id == titok.tokenizer_id
    assert not tokenizer.training
    assert not any(p.requires_grad for p in tokenizer.parameters())
    assert torch.equal(tokenizer.indices(image()), titok.indices(image()))


def test_official_weights_reconstruct_as_the_model_does(tmp_path, titok, state):
    save_file(state, tmp_path / "model.safetensors")
    model = load_reconstructor(tmp_path)
    rgb = titok.reconstruct(image())
    expected = 0.299 * rgb[:, :1] + 0.587 * rgb[:, 1:2] + 0.114 * rgb[:, 2:]
    torch.testing.assert_close(model.reconstruct(image()), expected)
    assert torch.equal(model.indices(image()), titok.indices(image()))
    assert model.tokenizer.tokenizer_id == titok.tokenizer_id


def test_half_precision_weights_become_float32(tmp_path, state):
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "model.safetensors")
    assert {p.dtype for p in load_tokenizer(tmp_path).parameters()} == {torch.float32}


def test_the_encoder_side_alone_makes_a_tokenizer_but_no_reconstructor(tmp_path, titok, state):
    part = {k: v for k, v in state.items() if k.startswith(("latent_tokens", "encoder.", "quantize."))}
    save_file(part, tmp_path / "model.safetensors")
    assert load_tokenizer(tmp_path).tokenizer_id == titok.tokenizer_id
    with pytest.raises(DataError, match=r"files-official: it lacks decoder\."):
        load_reconstructor(tmp_path)


def without(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("encoder.transformer.0.attn.in_proj_weight"), r"lacks encoder\.transformer\.0\.attn\.in_proj_weight"),
        (without("latent_tokens"), "no latent_tokens, not 32×1024 \\(titok-l32\\)"),
        (lambda s: s.update(latent_tokens=torch.zeros(9, 32)), "latent_tokens of 9×32"),
        (
            lambda s: s.update({"encoder.conv_out.weight": torch.zeros(64, 32, 1, 1)}),
            r"encoder\.conv_out\.weight has shape \(64, 32, 1, 1\), expected \(12, 32, 1, 1\)",
        ),
    ],
    ids=["incomplete", "another kind", "another size", "another codebook"],
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_wrong_official_files_are_refused_by_name(tmp_path, state, change, message, suffix):
    state = dict(state)
    change(state)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "bin":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(DataError, match=rf"weights\.{suffix}.*{message}"):
        load_tokenizer(path)


class Harmful:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("way", ["torch", "torch, old", "pickle"])
def test_a_pickle_with_code_inside_is_refused_and_not_run(tmp_path, state, way):
    harm, path = tmp_path / "harm", tmp_path / "weights.bin"
    content = {**state, "extra": Harmful(harm)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(DataError, match=r"^[^\n]*weights\.bin is refused: it asks for [^\n]*can run code[^\n]*$"):
        load_tokenizer(path)
    assert not harm.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("content", [b"", b"<!doctype html>", bytes(range(256)) * 20], ids=["empty", "html", "bytes"])
def test_what_is_no_file_of_weights_is_one_line(tmp_path, suffix, content):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^cannot read [^\n]*$"):
        load_tokenizer(path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_that_was_cut_short_is_refused(tmp_path, state, suffix):
    path = tmp_path / f"weights.{suffix}"
    torch.save(state, path) if suffix == "bin" else save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="cut short"):
        load_tokenizer(path)


def test_a_bin_file_of_something_else_is_refused(tmp_path):
    torch.save({"step": 3}, tmp_path / "a.bin")
    with pytest.raises(DataError, match="no plain table of tensors: step"):
        load_tokenizer(tmp_path / "a.bin")
    torch.save([torch.zeros(1)], tmp_path / "b.bin")
    with pytest.raises(DataError, match="but a list"):
        load_tokenizer(tmp_path / "b.bin")


def test_several_files_of_weights_must_be_chosen_from(tmp_path):
    for name in ("a.bin", "b.safetensors"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"2 files of weights: name one, e\.g\. .*a\.bin"):
        load_tokenizer(tmp_path)


def test_a_run_gives_its_averaged_weights(run):
    folder, model = run
    assert load_tokenizer(folder).tokenizer_id == model.tokenizer.tokenizer_id
    with torch.no_grad():
        tokens = model.tokenizer.quantize.lookup(model.tokenizer.indices(image()))
        expected = model.decoder(tokens).mean(1, keepdim=True).clamp(0, 1)
    torch.testing.assert_close(load_reconstructor(folder).reconstruct(image()), expected)


def test_a_bundle_gives_the_same_tokenizer_but_has_no_decoder(run, tmp_path):
    folder, model = run
    bundle = make_bundle(tmp_path / "bundle", model.tokenizer)
    assert load_tokenizer(bundle).tokenizer_id == load_tokenizer(folder).tokenizer_id
    with pytest.raises(DataError, match="bundle, which holds no decoder: give the run folder"):
        load_reconstructor(bundle)


def test_a_bundle_that_does_not_hold_together_is_refused(run, tmp_path):
    _, model = run
    foreign = make_bundle(tmp_path / "foreign", model.tokenizer, f"{LOCAL.name}:0123456789abcdef")
    with pytest.raises(DataError, match=r"is not the tokenizer that slots\.json names"):
        load_tokenizer(foreign)
    unknown = make_bundle(tmp_path / "unknown", model.tokenizer, "t32-huge:0123456789abcdef")
    with pytest.raises(DataError, match=r"unknown tokenizer 't32-huge'; known: .*titok-l32"):
        load_tokenizer(unknown)
    (unknown / "slots.json").unlink()
    with pytest.raises(DataError, match=r"no complete bundle: slots\.json"):
        load_tokenizer(unknown)


@pytest.mark.parametrize("load", [load_tokenizer, load_reconstructor])
def test_a_path_without_a_tokenizer_says_what_is_looked_for(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no tokenizer: neither a run's last\.pt"):
        load(tmp_path)
    (tmp_path / "last.txt").write_text("")
    with pytest.raises(DataError, match=r"last\.txt: official weights are a \.safetensors or \.bin file"):
        load(tmp_path / "last.txt")


def test_a_fusion_run_is_no_tokenizer(tmp_path):
    torch.save({"kind": "titok-ste", "average": {}}, tmp_path / "last.pt")
    with pytest.raises(DataError, match="is a titok-ste run: give the folder of a tokenizer run"):
        load_tokenizer(tmp_path)


def test_commands_take_official_weights_and_show_refusals_as_one_line(tmp_path, state, data_root):
    save_file(state, tmp_path / "weights.safetensors")
    words = ["inspect", "--data", str(data_root), "--folder", "ivf/val/visible", "--tokenizer"]
    out = tmp_path / "out"
    assert command_line.main([*words, str(tmp_path / "weights.safetensors"), "--out", str(out)]) == 0
    assert json.loads((out / "report.json").read_text())["tokenizer_id"].startswith("files-official:")
    with pytest.raises(SystemExit, match=r"^error: no tokenizer at [^\n]*$"):
        command_line.main([*words, str(tmp_path / "none"), "--out", str(out)])
