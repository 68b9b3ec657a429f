"""The bundle of a UniFusion run: what its card says, what its graphs hold, and how it is served and evaluated."""

import hashlib
import io
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import load_file

from app import cli, onnx_backend
from app.bundles import read_bundle
from app.card import Evaluation, ModelCard
from app.engine import Engine
from app.onnx_backend import OnnxBackend
from app.runs import Run
from app.settings import Settings
from models.unifusion.backbone import VisionBackbone
from tests.service.conftest import running_service
from tests.training.tiny_backbone_runs import backbone_words
from tests.training.tiny_runs import command, load
from tests.training.tiny_unifusion_runs import NETWORK, tiny_trainer, unifusion_words
from training import export_unifusion, unifusion_network
from training.backbone_files import load_backbone, save_backbone
from training.evaluation.runner import Bundle
from training.unifusion import load_trained
from training.unifusion_validation import USE

IMAGE = ["N", 1, "H", "W"]
CODE = ["N", 4 * NETWORK["embed_dim"], "h", "w"]
SIZE = (100, 150)  # No multiples of 16.
PARITY_SIZES = ((64, 64), (37, 53))
LOOKUPS = 'pairfuse_encoder_cache_total{{result="{}"}}'


def export(run_folder, folder, *options):
    """By the command, at fewer sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_unifusion, "PARITY_SIZES", PARITY_SIZES)
        command("export", "--run", run_folder, "--card", "unifusion", *options, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def backbone(data_root, tmp_path_factory):
    """A trained backbone's folder."""
    folder = tmp_path_factory.mktemp("backbone")
    command(*backbone_words(data_root, folder, folder / "run", steps=2))
    save_backbone(folder / "run", folder / "saved")
    return folder / "saved"


@pytest.fixture(scope="module")
def run_folder(data_root, backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unifusion") / "run"
    tiny_trainer(data_root, folder, backbone={"path": str(backbone)}).fit()
    return folder


@pytest.fixture(scope="module")
def bundle(run_folder, tmp_path_factory):
    return export(run_folder, tmp_path_factory.mktemp("weights") / "unifusion")


@pytest.fixture(scope="module")
def card(bundle):
    return ModelCard.model_validate_json((bundle / "card.json").read_text())


@pytest.fixture(scope="module")
def network(bundle, run_folder):
    """The PyTorch network with the weights of the bundle."""
    model, _ = load_trained(run_folder)
    model.load_state_dict(load_file(bundle / "fusion.safetensors"))
    model.backbone.load_state_dict(load_file(bundle / "backbone.safetensors"))
    return model


@pytest.fixture(scope="module")
def service(bundle, tmp_path_factory):
    """A service that waits a moment for pairs of one size, to run them together."""
    log = tmp_path_factory.mktemp("service") / "log"
    with running_service(bundle.parent, log, threads=1, max_batch=2, max_wait_ms=200) as live:
        yield live


@pytest.fixture(scope="module")
def grey_files(picture, to_file):
    """Makes the files of a grey pair."""
    return lambda size, seed: [to_file(picture(*size, seed + side, color=False)) for side in (0, 1)]


def plane(content):
    return np.asarray(Image.open(io.BytesIO(content)), np.float32)


@torch.no_grad()
def fused_by(network, files):
    """Grey levels that the network makes of a pair."""
    a, b = (torch.from_numpy(plane(content) / 255)[None, None] for content in files)
    return 255 * network(a, b)[0, 0].numpy()


def initialisers(path):
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def answered(response):
    assert response.status_code == 200, response.text
    return plane(response.content)


# the bundle


def test_the_service_can_read_it(bundle, card):
    assert read_bundle(bundle).card == card
    assert {file.name for file in bundle.iterdir()} == {"card.json", *card.files}
    graphs, weights = ("encoder.onnx", "fusion.onnx"), ("fusion.safetensors", "backbone.safetensors")
    assert card.files.keys() == {*graphs, *weights}
    for name, record in card.files.items():
        content = (bundle / name).read_bytes()
        assert (record.sha256, record.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert card.slots == ()
    assert card.tiling is None


def test_codes_are_maps_with_a_size(card):
    def shapes(specs):
        return {spec.name: spec.shape for spec in specs}

    assert shapes(card.encoder.inputs) == {"image": IMAGE}
    assert shapes(card.encoder.outputs) == {"code": CODE}
    assert shapes(card.fusion.inputs) == {"a": IMAGE, "b": IMAGE, "code_a": CODE, "code_b": CODE}
    assert shapes(card.fusion.outputs) == {"fused": IMAGE}


def test_no_file_holds_a_reconstruction_head(bundle, run_folder, network):
    heads = {name: value for name, value in load(run_folder)["average"].items() if name.startswith("heads.")}
    assert heads
    stored = {
        name: load_file(bundle / name) if name.endswith(".safetensors") else initialisers(bundle / name)
        for name in ("fusion.safetensors", "backbone.safetensors", "fusion.onnx", "encoder.onnx")
    }
    assert stored["fusion.safetensors"].keys() == network.state_dict().keys()
    assert stored["backbone.safetensors"].keys() == network.backbone.state_dict().keys()
    values = {np.asarray(value).astype(np.float16).tobytes() for part in stored.values() for value in part.values()}
    own = network.fusion.head[0].weight.detach().numpy().astype(np.float16).tobytes()
    assert own in values  # or none of the heads would be found either
    large = [value.half().numpy().tobytes() for value in heads.values() if value.numel() > 16]
    assert len(large) > 4
    assert not values.intersection(large)


def test_weights_are_those_of_the_run_as_float16(bundle, run_folder, backbone):
    average = load(run_folder)["average"]
    weights = load_file(bundle / "fusion.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(torch.equal(value, average[f"network.{name}"].half()) for name, value in weights.items())
    taken = load_backbone(backbone).state_dict()
    kept = load_file(bundle / "backbone.safetensors")
    assert all(torch.equal(value.float(), taken[name]) for name, value in kept.items())


def test_graphs_agree_with_pytorch_at_every_batch_and_size(card):
    sizes = [f"{batch}x{height}x{width}" for batch in (1, 3) for height, width in PARITY_SIZES]
    assert card.parity.keys() == {f"{graph} {size}" for graph in ("encoder", "fusion") for size in sizes}
    assert max(card.parity.values()) <= 1e-4
    assert 0 < card.extra["float16_storage_change"] <= 0.5 / 255


def test_the_card_says_what_both_parts_are_and_were_trained_on(card, network, backbone):
    parts = {"fusion": network, "backbone": network.backbone}
    assert card.parameters == {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    vit = load_backbone(backbone)
    assert card.extra["backbone"] == {**vit.identity().record(), **asdict(vit.config)}
    assert card.extra["network"] == NETWORK
    assert [(use.name, use.count, use.unit, use.use) for use in card.training.data] == [
        ("ivf/train/visible + ivf/train/infrared", 4, "pairs", "backbone"),
        ("ivf/train/visible", 4, "images", "backbone"),
        ("ivf/train/visible + ivf/train/infrared", 4, "pairs", "fusion"),
        ("ivf/train/visible", 4, "images", "fusion"),
    ]
    assert all("non-commercial" in use.licence for use in card.training.data)
    runs = [(run.command, run.steps) for run in card.training.runs]
    assert runs == [("python -m training backbone", 2), ("python -m training unifusion", 4)]


def test_the_card_says_what_the_backbone_is_used_for(card, run_folder):
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    last = {name: value for record in records for name, value in record.items()}
    found = card.extra["validation"]
    assert (found.pop("side"), found.pop("pairs")) == (64, 1)
    assert found.keys() == {name.split("/")[1] for name in last if name.startswith("val/")}
    for task, values in found.items():
        assert values.keys() == set(USE)
        assert values == {key: round(last[f"val/{task}/{key}"], 3) for key in USE}


def test_a_random_backbone_and_batch_norms_are_rounded_with_the_network(data_root, grey_files, tmp_path):
    network = {**NETWORK, "adapter": "none", "norm": "batch"}
    tiny_trainer(data_root, tmp_path / "run", network=network).fit()
    folder = export(tmp_path / "run", tmp_path / "unifusion")
    card = read_bundle(folder).card
    model, _ = load_trained(tmp_path / "run")
    for part, name in ((model, "fusion"), (model.backbone, "backbone")):
        kept = load_file(folder / f"{name}.safetensors")
        for key, value in part.state_dict().items():
            assert torch.equal(kept[key], value.half() if value.is_floating_point() else value)
        part.load_state_dict(kept)
    assert int(model.state_dict()["adapter_a.skip.layers.1.num_batches_tracked"]) > 0
    assert card.extra["backbone"].items() > model.identity().items()
    assert max(value for name, value in card.parity.items() if name.startswith("fusion")) <= 4e-6
    files = grey_files(SIZE, 1)
    fused = Bundle(folder)(*(plane(content) / 255 for content in files))
    assert np.abs(255 * fused - fused_by(model, files)).max() <= 1e-3
    assert {use.use for use in card.training.data} == {"fusion"}
    assert len(card.training.runs) == 1


# what is refused


@pytest.mark.parametrize("option", [("--tokenizer", "nowhere"), ("--fixed-strength",)])
def test_options_of_other_models_are_refused(run_folder, tmp_path, option):
    message = "is a unifusion run, which has no tokens: leave out --tokenizer and --fixed-strength"
    with pytest.raises(SystemExit, match=message):
        export(run_folder, tmp_path / "out", *option)
    assert not (tmp_path / "out").exists()


class Foreign(VisionBackbone):
    """Weights of somebody else under the identity of those that a run was trained with."""

    def __init__(self, vit):
        super().__init__("foreign", embed_dim=vit.embed_dim, taps=vit.taps)
        self.vit = vit

    def forward(self, image):
        return self.vit(image)

    def identity(self):
        return self.vit.identity()


def test_weights_of_others_are_not_passed_on(run_folder, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(unifusion_network, "make_backbone", lambda *_: Foreign(load_backbone(backbone)))
    with pytest.raises(SystemExit, match="was not trained on a backbone of this project: a bundle would pass on"):
        export(run_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_without_backbone_makes_no_bundle(data_root, tmp_path):
    network = {**NETWORK, "encoder": "trained"}
    command(*unifusion_words(data_root, tmp_path, tmp_path / "run", steps=1, network=network))
    with pytest.raises(SystemExit, match="trained an encoder of its own: only a network around a backbone"):
        export(tmp_path / "run", tmp_path / "out")


# served


def test_a_pair_is_encoded_once_and_fused_as_by_pytorch(service, network, grey_files):
    files = grey_files(SIZE, 1)
    before = {kind: service.metric(LOOKUPS.format(kind)) for kind in ("hit", "miss")}
    pictures = [answered(service.fuse(*files)) for _ in range(2)]
    assert {kind: service.metric(LOOKUPS.format(kind)) - before[kind] for kind in before} == {"hit": 2, "miss": 2}
    assert pictures[0].shape == SIZE
    np.testing.assert_array_equal(*pictures)
    expected = fused_by(network, files)
    assert np.abs(pictures[0] - expected).max() <= 0.51
    assert np.abs(expected - (plane(files[0]) + plane(files[1])) / 2).max() > 5


def test_pairs_of_several_sizes_at_once(service, network, grey_files):
    sizes = [SIZE, (48, 64), SIZE, (33, 97), (48, 64)]
    pairs = [grey_files(size, seed) for seed, size in zip(range(10, 20, 2), sizes, strict=True)]
    with ThreadPoolExecutor(len(pairs)) as pool:
        responses = list(pool.map(lambda files: service.fuse(*files), pairs))
    for files, size, response in zip(pairs, sizes, responses, strict=True):
        fused = answered(response)
        assert fused.shape == size
        assert np.abs(fused - fused_by(network, files)).max() <= 0.51
    assert service.metric('pairfuse_run_failures_total{model="unifusion"}') == 0


def test_a_batch_takes_codes_from_the_cache_and_from_one_run(bundle, network, grey_files):
    lookups = []
    served = read_bundle(bundle)
    one_code = 4 * CODE[1] * 7 * 10
    backend = OnnxBackend(served, Settings(device="cpu", threads=1))
    engine = Engine(served.card, backend, 3 * one_code, lookups.append)
    first, second = grey_files(SIZE, 1), grey_files(SIZE, 3)
    for pairs in ([first], [first, (first[1], second[0])], [first, second]):
        planes = [[plane(content) / 255 for content in files] for files in pairs]
        for files, fused in zip(pairs, engine.run([engine.job(a, b, ()) for a, b in planes]), strict=True):
            assert np.abs(255 * fused.luma - fused_by(network, files)).max() <= 0.05
    assert lookups == [False] * 2 + [True] * 2 + [False] + [True] * 3 + [False]


def test_there_is_no_strength(service, grey_files):
    response = service.fuse(*grey_files(SIZE, 1), strength=1)
    assert response.status_code == 422
    assert "unifusion has no edit slots" in response.json()["detail"]


def test_the_command_line_answers_the_same(bundle, service, grey_files, tmp_path, monkeypatch):
    files = grey_files(SIZE, 1)
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    monkeypatch.setenv("PAIRFUSE_WEIGHTS", str(bundle.parent))
    monkeypatch.setattr(sys, "argv", ["pairfuse", "fuse", *map(str, paths), "-o", str(tmp_path / "fused.png")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    fused = plane((tmp_path / "fused.png").read_bytes())
    assert np.abs(fused - answered(service.fuse(*files))).max() <= 1


class Recorder:
    """A session that records with which options it was run."""

    def __init__(self):
        self.options = []

    def run(self, names, inputs, options):
        self.options.append(options)
        return [inputs["a"]]


def test_memory_is_given_back_by_pixels_whatever_the_size_of_codes(bundle, monkeypatch):
    backend = OnnxBackend(read_bundle(bundle), Settings(device="cpu", threads=1))
    recorder = Recorder()
    backend._fusion = backend._fusion._replace(wide=recorder)
    monkeypatch.setattr(onnx_backend, "RETAINED_PIXELS", 64 * 64)
    code = np.zeros((1, 4096, 5, 5), np.float32)
    for side in (64, 65):
        image = np.zeros((1, 1, side, side), np.float32)
        backend.fuse({"a": image, "b": image, "code_a": code, "code_b": code}, Run())
    kept, given_back = recorder.options
    assert not asks_for_memory_back(kept)
    assert asks_for_memory_back(given_back)


def asks_for_memory_back(options):
    try:
        return options.get_run_config_entry(onnx_backend.SHRINK) == "cpu:0"
    except RuntimeError:  # There is no such entry.
        return False


# measured


def test_it_is_evaluated(bundle, data_root, tmp_path, capsys):
    folder = tmp_path / "unifusion"
    shutil.copytree(bundle, folder)
    command("evaluate", "--bundle", folder, "--data", data_root / "ivf" / "val", "--metrics", "EN", "--write-card")
    assert "| unifusion |" in capsys.readouterr().out
    (entry,) = json.loads((folder / "card.json").read_text())["evaluation"]
    assert Evaluation.model_validate(entry).metrics["unifusion"]["EN"] > 0
    assert read_bundle(folder).card.evaluation


def test_codes_of_another_image_are_a_control_only_where_they_fit(bundle, grey_files, tmp_path, capsys):
    for name, size in (("small", (48, 64)), ("large", (80, 64))):
        for side, content in zip(("visible", "infrared"), grey_files(size, 1), strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / f"{name}.png").write_bytes(content)
    words = ("evaluate", "--bundle", bundle, "--data", tmp_path, "--metrics", "EN", "--controls")
    for option, fits in (((), False), (("--size", 64), True)):
        command(*words, *option)
        table = capsys.readouterr().out
        assert "| unifusion, tokens zeroed |" in table
        assert ("| unifusion, tokens of another image |" in table) == fits


def test_operations_are_counted_with_the_backbone(capsys):
    command("macs", "--model", "unifusion", "--size", 64, 96)
    *_, row = capsys.readouterr().out.splitlines()
    name, parameters, _, _, encode = row.split()
    E, patches, tokens = 192, 24, 24 + 1 + 4
    block = tokens * 12 * E**2 + 2 * tokens**2 * E  # projections and MLP, then queries by keys and weights by values
    assert (name, parameters) == ("unifusion", "1,497,068")
    assert float(encode) == pytest.approx((patches * 3 * 256 * E + 12 * block) / 1e9, abs=6e-4)
