"""Published DINOv3 weights under the names of all three publishers; those parts that need timm run where it is."""

import hashlib
import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from models.unifusion import PROFILES, DinoV3Backbone, SmallViT, UniFusion, ViTConfig, dinov3
from models.unifusion.official import to_timm_names


def timm_available():
    try:
        importlib.import_module("timm")
    except (ImportError, RuntimeError):
        return False
    return True


needs_timm = pytest.mark.skipif(not timm_available(), reason="timm is not installed, or not usable")


def as_meta(state):
    """Meta's names for timm's, with what timm leaves out."""
    renamed = {}
    for name, value in state.items():
        new = name.replace("reg_token", "storage_tokens").replace(".gamma_", ".ls")
        renamed[f"{new}.gamma" if ".ls" in new else new] = value
        if name.endswith("attn.qkv.weight"):
            bias = torch.zeros(len(value))
            bias[len(value) // 3 : 2 * len(value) // 3] = 0.7  # that of the keys, which Meta's network masks
            renamed[name.replace("weight", "bias")] = bias
            renamed[name.replace("weight", "bias_mask")] = (bias == 0).float()
    width = state["cls_token"].shape[-1]
    return renamed | {"mask_token": torch.rand(1, width), "rope_embed.periods": torch.rand(16)}


def as_transformers(state, prefix):
    """The names of transformers for timm's, with what timm leaves out."""
    parts = {"attn.proj": "attention.o_proj", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
    layer_scale = {"gamma_1": "layer_scale1.lambda1", "gamma_2": "layer_scale2.lambda1"}
    outer = {"cls_token": "cls_token", "reg_token": "register_tokens"}
    renamed = {"embeddings.mask_token": torch.rand(1, 1, 384)}
    for name, value in state.items():
        new = name
        for old, replacement in (parts | layer_scale).items():
            new = new.replace(old, replacement)
        new = new.replace("patch_embed.proj", "embeddings.patch_embeddings").replace("blocks.", f"{prefix}layer.")
        new = f"embeddings.{outer[new]}" if new in outer else new
        if new.endswith("attn.qkv.weight"):
            base = new.replace("attn.qkv.weight", "attention")
            for letter, rows in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{base}.{letter}_proj.weight"] = rows.clone()
                if letter != "k":
                    renamed[f"{base}.{letter}_proj.bias"] = torch.zeros(len(rows))
        else:
            renamed[new] = value
    return renamed


NAMINGS = {
    "timm": dict,
    "meta": as_meta,
    "transformers": lambda state: as_transformers(state, ""),
    "transformers 5": lambda state: as_transformers(state, "model."),
}


def block_state(depth=2, E=8):
    """Tensors of a network of that design, under timm's names; only names and stacking matter here."""
    state = {"cls_token": torch.rand(1, 1, E), "reg_token": torch.rand(1, 4, E)}
    shapes = {
        "gamma_1": (E,),
        "gamma_2": (E,),
        "norm1.weight": (E,),
        "norm1.bias": (E,),
        "attn.qkv.weight": (3 * E, E),
        "attn.proj.weight": (E, E),
        "attn.proj.bias": (E,),
        "norm2.weight": (E,),
        "norm2.bias": (E,),
        "mlp.fc1.weight": (4 * E, E),
        "mlp.fc1.bias": (4 * E,),
        "mlp.fc2.weight": (E, 4 * E),
        "mlp.fc2.bias": (E,),
    }
    state |= {"patch_embed.proj.weight": torch.rand(E, 3, 16, 16), "patch_embed.proj.bias": torch.rand(E)}
    for block in range(depth):
        state |= {f"blocks.{block}.{name}": torch.rand(shape) for name, shape in shapes.items()}
    return state | {"norm.weight": torch.rand(E), "norm.bias": torch.rand(E)}


@pytest.mark.parametrize("naming", NAMINGS)
def test_names_of_all_publishers(naming):
    state = block_state()
    named = to_timm_names(NAMINGS[naming](state))
    assert named.keys() == state.keys()
    assert all(torch.equal(named[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("naming", "name"),
    [("meta", "blocks.1.attn.qkv.bias"), ("transformers", "layer.1.attention.v_proj.bias"), ("timm", None)],
)
def test_a_bias_without_a_place_is_refused(naming, name):
    state = NAMINGS[naming](block_state())
    name = name or "blocks.0.attn.qkv.bias"
    state[name] = torch.ones(24 if "qkv" in name else 8)
    with pytest.raises(ValueError, match=f"{name} is not zero"):
        to_timm_names(state)


def test_half_a_projection_is_refused():
    state = NAMINGS["transformers"](block_state())
    del state["layer.1.attention.k_proj.weight"]
    with pytest.raises(ValueError, match=r"lacks blocks\.1\.attn\.k_proj\.weight"):
        to_timm_names(state)


def test_missing_timm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"need timm, .*pip install 'pairfuse\[interfaces\]'"):
        DinoV3Backbone()


@pytest.fixture(scope="module")
def source():
    """A network whose layers all matter."""
    torch.manual_seed(0)
    backbone = DinoV3Backbone()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "gamma" in name:
                parameter.copy_(torch.rand_like(parameter))
    return backbone


def save(state, path):
    state = {name: value.contiguous() for name, value in state.items()}
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    return path


@needs_timm
@pytest.mark.parametrize("naming", NAMINGS)
@torch.no_grad()
def test_published_files_give_the_same_taps(source, naming, tmp_path):
    suffix = ".pth" if naming == "meta" else ".safetensors"
    path = save(NAMINGS[naming](source.vit.state_dict()), tmp_path / f"weights{suffix}")
    loaded = DinoV3Backbone()
    assert loaded.file_sha256 is None
    assert loaded.load_official(path) == loaded.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.identity() == source.identity()
    image = torch.rand(1, 3, 48, 80)
    assert all(map(torch.equal, loaded(image), source(image)))


@needs_timm
@torch.no_grad()
def test_taps_of_dinov3(source):
    assert sum(p.numel() for p in source.parameters()) == 21_586_944
    taps = source(torch.rand(2, 3, 48, 80))
    assert [tap.shape for tap in taps] == [(2, 384, 3, 5)] * 4
    for tap in taps:
        assert tap.mean(dim=1).abs().max() < 1e-5
        assert (tap.var(dim=1, unbiased=False) - 1).abs().max() < 1e-2
    assert not source.training
    assert not any(p.requires_grad for p in source.parameters())
    with pytest.raises(ValueError, match="multiples of 16"):
        source(torch.rand(1, 3, 40, 80))


@needs_timm
@torch.no_grad()
def test_our_own_transformer_is_that_design(source):
    ours = SmallViT(ViTConfig(384, heads=6), maskable=False).eval()
    theirs = source.vit.state_dict()
    names = {
        "attn": "attention",
        "gamma_": "scale",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
        "patch_embed.proj": "patches",
    }
    state = {"prefix": torch.cat([theirs.pop("cls_token"), theirs.pop("reg_token")], dim=1)}
    for name, value in theirs.items():
        new = name
        for old, replacement in names.items():
            new = new.replace(old, replacement)
        state[new] = value
    ours.load_state_dict(state)
    image = torch.rand(1, 3, 48, 80)
    for mine, expected in zip(ours(image), source(image), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


@needs_timm
@torch.no_grad()
def test_taps_are_those_of_timm(source):
    stock = importlib.import_module("timm").create_model("vit_small_patch16_dinov3", pretrained=False).eval()
    stock.load_state_dict(source.vit.state_dict())
    image = torch.rand(2, 3, 48, 80)
    expected = stock.forward_intermediates(
        source.normalise(image), indices=[2, 5, 8, 11], norm=True, intermediates_only=True
    )
    for mine, tap in zip(source(image), expected, strict=True):
        torch.testing.assert_close(mine, tap, atol=2e-5, rtol=0)


@needs_timm
def test_the_network_leaves_dinov3_as_it_is(source):
    before = source.identity()
    model = UniFusion(PROFILES["code"], source).train()
    assert source.identity() == before
    assert not any(module.training for module in source.modules())
    assert model.identity()["name"] == "dinov3-vits16"


def spoilt(state, fault):
    state = dict(state)
    if fault == "missing":
        del state["blocks.7.gamma_1"]
    elif fault == "unknown":
        state["blocks.7.gamma_3"] = torch.zeros(384)
    elif fault == "shape":
        state["blocks.7.mlp.fc1.bias"] = torch.zeros(1000)
    return state


@needs_timm
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"not a dinov3-vits16: it lacks blocks\.7\.gamma_1 \(1 in all\)"),
        ("unknown", r"holds unknown tensors blocks\.7\.gamma_3"),
        ("shape", r"blocks\.7\.mlp\.fc1\.bias has shape \(1000,\), expected \(1536,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(source, fault, message, tmp_path):
    backbone = DinoV3Backbone()
    before = backbone.identity()
    path = save(spoilt(source.vit.state_dict(), fault), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=message):
        backbone.load_official(path)
    assert backbone.identity() == before
    assert backbone.file_sha256 is None


@needs_timm
def test_files_that_are_none_are_refused(source, tmp_path):
    with pytest.raises(FileNotFoundError):
        source.load_official(tmp_path / "none.pth")
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"text{suffix}"
        path.write_text("no weights")
        with pytest.raises(ValueError, match="holds no weights"):
            source.load_official(path)
    torch.save({"epoch": 3}, path := tmp_path / "run.pth")
    with pytest.raises(ValueError, match="must hold tensors by name and nothing else"):
        source.load_official(path)


def test_without_weights_the_blocks_count(monkeypatch):
    vit = torch.nn.Module()
    vit.blocks = torch.nn.ModuleList(torch.nn.Module() for _ in range(2))
    for block in vit.blocks:
        block.gamma_1, block.gamma_2 = (torch.nn.Parameter(torch.full((4,), 1e-5)) for _ in range(2))
    made = SimpleNamespace(create_model=lambda *args, **options: vit)
    monkeypatch.setattr(dinov3, "import_timm", lambda: made)
    scales = DinoV3Backbone().vit.state_dict()
    assert len(scales) == 4
    assert all(torch.equal(value, torch.ones(4)) for value in scales.values())
