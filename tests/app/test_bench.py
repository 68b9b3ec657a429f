"""The benchmark's counting, its report and its errors; no test here looks at a time."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.bundles import read_bundle
from benchmarks import bench
from benchmarks.errors import BenchError
from benchmarks.findings import Target, findings, reference
from benchmarks.graphs import Graphs, Operations
from benchmarks.large import NOT_ASKED
from benchmarks.macs import count_macs
from benchmarks.measure import CACHED, COLD, ENCODE, FUSE, FUSE_DEFAULTS, Measured, Memory, _Pairs
from benchmarks.pictures import Scene
from benchmarks.report import as_json, as_markdown, as_tables
from benchmarks.rounds import TRIES, interleave
from benchmarks.service import Answer, parse_timing

FACTS = {"processor": "Test", "threads of one run": "2"}
STAGES = {"decode": 0.01, "queue": 0.001, "encode_code": 0.02, "fuse": 0.1, "encode": 0.005}


def one_node(node, inputs, weights=None):
    """Serialises a graph of one node with output y; inputs map names to shapes, weights to arrays."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def zeros(*shape):
    return np.zeros(shape, np.float32)


def test_convolution_counts_groups_and_stride():
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    graph = one_node(node, {"x": ["N", 4, "H", "W"]}, {"w": zeros(6, 2, 3, 3)})
    # Output 2×6×5×4; each value sums 4 / 2 channels × 3 × 3.
    assert count_macs(graph, {"x": zeros(2, 4, 10, 7)}) == 2 * 6 * 5 * 4 * 2 * 9


def test_transposed_convolution_counts_each_input_value():
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    graph = one_node(node, {"x": ["N", 3, "H", "W"]}, {"w": zeros(3, 5, 2, 2)})
    assert count_macs(graph, {"x": zeros(1, 3, 4, 6)}) == 3 * 4 * 6 * 5 * 2 * 2


def test_batched_matmul_counts_broadcast_batches():
    graph = one_node(helper.make_node("MatMul", ["p", "q"], ["y"]), {"p": ["B", 1, "M", "K"], "q": [3, "K", "L"]})
    assert count_macs(graph, {"p": zeros(2, 1, 4, 5), "q": zeros(3, 5, 7)}) == 2 * 3 * 4 * 7 * 5


@pytest.mark.parametrize(("transposed", "shape"), [(0, (4, 5)), (1, (5, 4))])
def test_gemm_counts_both_orientations(transposed, shape):
    node = helper.make_node("Gemm", ["p", "w"], ["y"], transA=transposed, transB=1)
    graph = one_node(node, {"p": list("MK")}, {"w": zeros(7, 5)})
    assert count_macs(graph, {"p": zeros(*shape)}) == 4 * 7 * 5


def test_shapes_computed_inside_the_graph_are_counted():
    """The convolution's size follows from values that only a run knows."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["found"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["w", "found"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(zeros(3, 1), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    feed = {"x": np.array([0, 1, 1, 0, 1], np.float32)}
    assert count_macs(model.SerializeToString(), feed) == 3 * 1 * 3


def test_graph_without_products_counts_zero():
    assert count_macs(one_node(helper.make_node("Relu", ["x"], ["y"]), {"x": ["N"]}), {"x": zeros(3)}) == 0


def test_what_cannot_be_counted_is_refused():
    node = helper.make_node("Einsum", ["x", "x"], ["y"], equation="ij,jk->ik")
    with pytest.raises(BenchError, match="Einsum"):
        count_macs(one_node(node, {"x": [2, 2]}), {"x": zeros(2, 2)})


def test_products_inside_a_loop_are_refused(tmp_path, bundle_writers):
    """The loop of this bundle multiplies as often as an input says."""
    content = (bundle_writers["moody"](tmp_path) / "fusion.onnx").read_bytes()
    assert onnx.load_from_string(content).graph.node
    with pytest.raises(BenchError, match="MatMul inside a loop"):
        count_macs(content, {})


@pytest.mark.parametrize("name", ["coded", "plain"])
def test_bundles_with_and_without_encoder_run(tmp_path, bundle_writers, name):
    bundle = read_bundle(bundle_writers[name](tmp_path))
    graphs = Graphs(bundle, 1, (48, 64))
    graphs.fuse()
    graphs.fuse_with_defaults()
    assert graphs.operations((48, 64)) == Operations(0, 0 if name == "coded" else None)


def fake(name="some-lite", *, encoder=True, whole=0.2, **changes):
    """Numbers of three rounds: the fusion graph takes 0.1 s, its defaults 0.08 s."""
    convolutions = {"slow": 1_000_000_000, "quick": 1_000_000_000}
    seconds = {"slow": 0.04, "quick": 0.02, FUSE: 0.1, FUSE_DEFAULTS: 0.08}
    series = {key: [{"whole": value}] * 3 for key, value in seconds.items()}
    series[COLD] = [{"whole": whole} | STAGES] * 3
    if encoder:
        series |= {ENCODE: [{"whole": 0.01}] * 3, CACHED: series[COLD]}
    operations = Operations(3_072_000_000, 267_000_000 if encoder else None)
    values = {
        "name": name,
        "size": (480, 640),
        "operations": operations,
        "at_card_size": operations,
        "card": {"fuse_per_pixel": 10_000.0, "encode_per_image": 267_000_000.0},
        "series": series,
        "memory": Memory(100_000_000, 200_000_000, 1_600_000_000, 300_000_000),
        "upload_bytes": 600_000,
        "convolutions": convolutions,
    }
    return Measured(**(values | changes))


def by_key(measured):
    return {row.key: row for rows in findings(measured).values() for row in rows}


def test_findings_follow_from_the_numbers():
    rows = by_key(fake())
    assert reference(fake()) == "quick"
    assert rows["fuse_kmac_per_pixel"].value == pytest.approx(10)
    assert rows["quick"].value == pytest.approx(100)
    assert rows["fuse_gflops"].value == pytest.approx(61.44)
    assert rows["fuse_of_machine_rate"].value == pytest.approx(0.6144)
    assert rows["fuse_over_floor"].value == pytest.approx(1 / 0.6144)
    assert rows["post_cold_rest_ms"].value == pytest.approx(64)
    # Against the faster of the two option sets, 0.08 s.
    assert rows["post_cold_over_fuse"].value == pytest.approx(2.5)


def test_every_target_has_a_verdict():
    verdicts = {key: row.passed for key, row in by_key(fake(whole=0.3)).items() if row.target}
    assert verdicts == {
        "fuse_kmac_per_pixel": True,
        "fuse_card_deviation": True,
        "encode_gmac": True,
        "encode_card_deviation": True,
        "fuse_of_machine_rate": True,
        "encode_of_machine_rate": True,
        "post_cold_over_fuse": False,
        "post_cached_over_fuse": False,
        "memory_idle_mb": True,
        "memory_used_mb": True,
        "memory_peak_mb": False,
    }


def test_models_for_accelerators_have_no_cpu_limits():
    limited = {key for key, row in by_key(fake("titok-ste")).items() if row.target}
    assert not limited & {"fuse_kmac_per_pixel", "encode_gmac", "memory_idle_mb", "memory_peak_mb"}


def test_card_that_states_nothing_misses():
    row = by_key(fake(card={}))["fuse_card_deviation"]
    assert row.value is None
    assert row.passed is False


def test_card_that_is_wrong_misses():
    assert by_key(fake(card={"fuse_per_pixel": 9_700.0}))["fuse_card_deviation"].passed is False


def test_model_without_encoder_or_products_is_reported():
    bare = fake(encoder=False, operations=Operations(0, None), at_card_size=Operations(0, None))
    rows = by_key(bare)
    assert not [key for key in rows if key.startswith("encode_") or key.startswith("post_cached")]
    assert "fuse_of_machine_rate" not in rows
    assert "some-lite" in as_markdown(FACTS, [bare])


@pytest.mark.parametrize(
    ("sign", "verdicts"), [("<", [True, False, False]), ("≤", [True, True, False]), ("≥", [False, True, True])]
)
def test_target_at_its_bound(sign, verdicts):
    assert [Target(sign, 2).met_by(value) for value in (1, 2, 3)] == verdicts
    assert Target(sign, 2).met_by(None) is False


def test_all_three_reports_are_complete():
    measured = [fake(), fake("titok-ste", encoder=False)]
    text, tree = as_markdown(FACTS, measured), json.loads(json.dumps(as_json(FACTS, measured)))
    *tables, first, second = as_tables(measured)
    assert (first, second) == tuple(f"{item.name}: {NOT_ASKED}" for item in measured)
    assert all(f"\n{line}.\n" in text for line in (first, second))
    for item, model, table in zip(measured, tree["models"], tables, strict=True):
        rows = by_key(item)
        assert model["name"] == item.name
        assert set(model["findings"]) == set(rows)
        assert model["samples_s"].keys() == item.series.keys()
        assert table.row_count == len(rows) + len(findings(item))
        assert all(f"| {row.label} |" in text for row in rows.values())
    assert tree["machine"] == FACTS
    assert text.count("| miss |") + text.count("| pass |") == sum(
        row.target is not None for item in measured for row in by_key(item).values()
    )


def test_rounds_keep_the_better_try_and_alternate():
    calls = []

    def step(name):
        def run():
            calls.append(name)
            return {"whole": float(len(calls))}

        return run

    series = interleave({"p": step("p"), "q": step("q")}, 2, lambda: None)
    assert "".join(calls) == "pq" + "p" * TRIES + "q" * TRIES + "q" * TRIES + "p" * TRIES
    assert [sample["whole"] for sample in series["p"]] == [3, 9]


def test_scenes_never_repeat_a_file():
    scenes = [Scene(48, 64), Scene(48, 64)]
    files = [file for scene in scenes for _ in range(2) for file in scene.files()]
    assert len(set(files)) == len(files) == 8


def test_scene_planes_are_luminance():
    for plane in Scene(33, 47).planes():
        assert plane.shape == (1, 1, 33, 47)
        assert plane.dtype == np.float32
        assert 0 <= plane.min() < plane.max() <= 1


class FakeClient:
    """A service whose cache never forgets, or always does."""

    def __init__(self, *, forgets):
        self._forgets, self._seen, self._counts = forgets, set(), {"hit": 0, "miss": 0}
        self.strengths = []

    def lookups(self):
        return dict(self._counts)

    def fuse(self, files, strength):
        self.strengths.append(strength)
        for file in files:
            self._counts["hit" if file in self._seen and not self._forgets else "miss"] += 1
            self._seen.add(file)
        return Answer(0.1, STAGES)


def test_cold_and_cached_pairs_are_what_they_say(tmp_path, bundle_writers):
    client = FakeClient(forgets=False)
    pairs = _Pairs(client, Scene(48, 64), read_bundle(bundle_writers["coded"](tmp_path)))
    assert pairs.cold() == {"whole": 0.1} | STAGES
    pairs.cached()
    assert client.lookups() == {"hit": 2, "miss": 2}
    assert len(set(client.strengths)) == 2


def test_cached_pair_that_misses_stops_the_benchmark(tmp_path, bundle_writers):
    pairs = _Pairs(FakeClient(forgets=True), Scene(48, 64), read_bundle(bundle_writers["coded"](tmp_path)))
    pairs.cold()
    with pytest.raises(BenchError, match="should hit"):
        pairs.cached()


def test_cold_pair_that_hits_stops_the_benchmark(tmp_path, bundle_writers):
    scene, client = Scene(48, 64), FakeClient(forgets=False)
    files = scene.files()
    client.fuse(files, None)
    scene.files = lambda: files
    with pytest.raises(BenchError, match="should miss"):
        _Pairs(client, scene, read_bundle(bundle_writers["coded"](tmp_path))).cold()


def test_model_without_slots_gets_no_strength(tmp_path, bundle_writers):
    client = FakeClient(forgets=False)
    _Pairs(client, Scene(48, 64), read_bundle(bundle_writers["plain"](tmp_path))).cold()
    assert client.strengths == [None]


def test_server_timing_is_read():
    assert parse_timing("decode;dur=1.50, encode_code;dur=20") == {"decode": 0.0015, "encode_code": 0.02}
    assert parse_timing("") == {}


@pytest.mark.parametrize("exists", [True, False])
def test_empty_or_missing_weights_fail_clearly(tmp_path, capsys, exists):
    weights = tmp_path / "weights"
    if exists:
        weights.mkdir()
    out = tmp_path / "out"
    assert bench.main(["--weights", str(weights), "--out", str(out)]) == bench.FAILED
    message = capsys.readouterr().err
    assert "no usable bundle" in message if exists else "No weights folder" in message
    assert not out.exists()


def test_damaged_bundle_is_named(tmp_path, capsys, bundle_writers):
    folder = bundle_writers["plain"](tmp_path)
    (folder / "fusion.onnx").write_bytes(b"x")
    assert bench.main(["--weights", str(tmp_path)]) == bench.FAILED
    assert "plain" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--size", "8", "640"], ["--threads", "-1"]])
def test_impossible_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert "must be at least 1" in capsys.readouterr().err
