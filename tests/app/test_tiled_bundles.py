"""Bundles with tiles: what is refused when they are read, opened and first run, and how they are batched."""

import asyncio
import json

import pytest

from app.bundles import read_bundle
from app.catalog import load_catalog
from app.errors import BundleError
from app.gate import Gate
from app.onnx_backend import OnnxBackend
from app.options import read_options
from app.pipeline import Pipeline
from app.settings import Settings
from app.telemetry import Telemetry
from tests.app.tiled_bundle import blur_graphs, feature_nodes, fusing_nodes, write_tiled_bundle
from tests.conftest import IMAGE, make_file, make_graph, make_picture, write_bundle


@pytest.fixture
def folder(tmp_path):
    """A sound bundle with tiles that tests may spoil."""
    return write_tiled_bundle(tmp_path / "weights", "blur")


def edit_card(folder, edit):
    path = folder / "card.json"
    card = json.loads(path.read_text())
    edit(card)
    path.write_text(json.dumps(card))


def refusal(folder):
    with pytest.raises(BundleError) as caught:
        OnnxBackend(read_bundle(folder), Settings(device="cpu", threads=1))
    return caught.value.reason


def load(weights):
    return load_catalog(Settings(weights=weights, device="cpu", threads=1), Telemetry())


def test_a_sound_bundle_is_read_and_loaded(folder):
    bundle = read_bundle(folder)
    assert (bundle.sums, bundle.given) == (folder / "sums.onnx", folder / "given.onnx")
    assert load(folder.parent).refused == {}


@pytest.mark.parametrize("file", ["sums.onnx", "given.onnx"])
def test_damaged_and_missing_graphs(folder, file):
    content = bytearray((folder / file).read_bytes())
    content[20] ^= 1
    (folder / file).write_bytes(content)
    assert f"{file!r} has sha256" in refusal(folder)
    (folder / file).unlink()
    assert f"{file!r} cannot be read" in refusal(folder)


def rename(spec):
    spec["name"] = "other"


def two_outputs(graph):
    graph["outputs"] *= 2


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda card: rename(card["tiling"]["sums"]["inputs"][2]), "it must take ['a', 'b', 'counted']"),
        (lambda card: rename(card["tiling"]["given"]["inputs"][2]), "it must take ['a', 'b', 'mean']"),
        (lambda card: two_outputs(card["tiling"]["given"]), "given.onnx must have one output"),
        (lambda card: rename(card["tiling"]["sums"]["outputs"][0]), "sums.onnx has outputs ['sums']"),
        (lambda card: rename(card["tiling"]["given"]["outputs"][0]), "given.onnx has outputs ['fused']"),
        (lambda card: card["tiling"]["sums"]["outputs"][0].update(shape=["N", 3]), "a mean ['N', 2]"),
        (lambda card: card["tiling"]["sums"]["outputs"][0].update(shape=["N", 2, 1]), "both must be (N, C)"),
        (lambda card: card["tiling"]["sums"]["inputs"][2].update(shape=["N", 1, 8, "W"]), "the card says ['N', 1, 8"),
    ],
)
def test_graphs_unlike_their_card_or_each_other(folder, edit, reason):
    edit_card(folder, edit)
    assert reason in refusal(folder)


def test_tiles_are_not_for_models_with_slots_or_codes(tmp_path, folder, bundle_writers):
    tiling = json.loads((folder / "card.json").read_text())["tiling"]
    coded = bundle_writers["coded"](tmp_path)
    for file in ("sums.onnx", "given.onnx"):
        (coded / file).write_bytes((folder / file).read_bytes())
    files = json.loads((folder / "card.json").read_text())["files"]
    edit_card(coded, lambda card: card.update(tiling=tiling, files=files | card["files"]))
    assert "tiling is for models without encoder and edit slots" in refusal(coded)


def test_tiles_of_another_model_are_refused_at_start(tmp_path, folder):
    """The checksums are right, yet the graphs for tiles fuse something else."""
    nodes, constants = fusing_nodes(signs=(3, -1))
    graphs = blur_graphs()
    images = {"a": IMAGE, "b": IMAGE, "mean": ["N", 2]}
    graphs["given"] = make_graph(images, {"fused": IMAGE}, [*feature_nodes(), *nodes], constants)
    write_tiled_bundle(tmp_path / "weights", "other", graphs)
    catalog = load(tmp_path / "weights")
    assert [engine.card.name for engine in catalog] == ["blur"]
    assert "the graphs for tiles differ from the fusion graph by" in catalog.refused["other"]


def batches_of(weights, files, pairs):
    """Fuses pairs at once with room for four in a run, and returns how many runs that took."""
    settings = Settings(weights=weights, device="cpu", threads=1, max_batch=4, max_wait_ms=1000)
    telemetry = Telemetry()
    catalog = load_catalog(settings, telemetry)
    gate = Gate(9, 10**8, 10**8, telemetry.inflight)
    pipeline = Pipeline(settings, catalog, telemetry, gate)

    async def scenario():
        pipeline.start()
        await asyncio.gather(*(pipeline.fuse(*files, read_options({}, catalog)) for _ in range(pairs)))
        await pipeline.stop()

    asyncio.run(scenario())
    lines = telemetry.render().decode().splitlines()
    return float(next(line for line in lines if line.startswith("pairfuse_batch_size_count")).split()[1])


@pytest.mark.parametrize(
    ("tiled", "size", "runs"),
    [(True, (64, 65), 4), (True, (64, 64), 4), (True, (32, 32), 1), (False, (64, 65), 1)],
    ids=["in tiles", "as large as the limit", "four within the limit", "no tiles"],
)
def test_a_batch_is_no_larger_than_an_image_for_the_fusion_graph(tmp_path, tiled, size, runs):
    graphs = blur_graphs()
    write = write_tiled_bundle if tiled else lambda weights, name: write_bundle(weights, name, graphs["fusion"])
    write(tmp_path, "blur")
    files = [make_file(make_picture(*size, seed, color=False)) for seed in (1, 2)]
    assert batches_of(tmp_path, files, 4) == runs
