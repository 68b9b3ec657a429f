"""Views of a backbone's training: ranges, shapes, and which patch of a window is which patch of its canvas."""

import pytest
import torch
from torch.nn import functional as F

from tests.training.tiny_backbone_runs import VIEWS, model_recipe
from training.backbone_edges import EDGE_VALUES, edge_directions
from training.backbone_recipe import ViewConfig
from training.backbone_views import ViewSampler, cut_windows, draw_masks, shared_side, window_places

STILL = {"student": {"probability": 0.0}, "teacher": {"probability": 0.0}}


def sampler(data_root, **changes):
    recipe = model_recipe(views={**VIEWS, **changes})
    return ViewSampler(data_root, recipe.sources, recipe.views, torch.device("cpu"))


def patches(images):
    """(N, C, H, W) -> (N, P, C · 256), row by row."""
    return F.unfold(images, 16, stride=16).transpose(1, 2)


def test_views_have_shape_and_range(data_root):
    views = sampler(data_root, batch=3, margin=2).draw(48)
    g = 3
    assert views.window.shape == views.partner.shape == (6, 1, 16 * g, 16 * g)
    assert views.canvas.shape == (6, 1, 16 * g + 32, 16 * g + 32)
    assert views.places.shape == views.mask.shape == (6, g * g)
    for image in (views.window, views.partner, views.canvas):
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
    assert views.mask.dtype == torch.bool


def test_sides_are_all_drawn_and_the_same_in_all_processes():
    drawn = []
    for process in (0, 1):
        torch.manual_seed(process)
        drawn.append([shared_side((32, 48, 64), 17, step) for step in range(60)])
        torch.rand(3)
    assert drawn[0] == drawn[1]
    assert all(drawn[0].count(side) > 8 for side in (32, 48, 64))
    assert drawn[0] != [shared_side((32, 48, 64), 18, step) for step in range(60)]


def test_a_patch_of_the_window_is_that_patch_of_the_canvas():
    torch.manual_seed(0)
    canvases = torch.rand(8, 2, 80, 80)
    corners = torch.randint(3, (8, 2))
    mirrored = torch.arange(8) % 2 == 1
    windows = cut_windows(canvases, corners, mirrored, 48)
    places = window_places(corners, mirrored, 3, 5)
    whole = patches(canvases)
    chosen = whole.gather(1, places.unsqueeze(2).expand(-1, -1, whole.shape[2]))
    mirror = chosen.unflatten(2, (2, 16, 16)).flip(4).flatten(2)
    expected = torch.where(mirrored[:, None, None], mirror, chosen)
    assert torch.equal(patches(windows), expected)


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_drawn_windows_lie_where_their_places_say(data_root, mirror):
    torch.manual_seed(0)
    views = sampler(data_root, cross=0.0, mirror=mirror, margin=2, **STILL).draw(32)
    whole = patches(views.canvas)
    chosen = whole.gather(1, views.places.unsqueeze(2).expand(-1, -1, 256)).unflatten(2, (16, 16))
    expected = chosen.flip(3) if mirror else chosen
    assert torch.equal(patches(views.window), expected.flatten(2))
    assert torch.equal(views.partner, views.window)


def test_the_window_may_show_the_other_sensor(data_root):
    torch.manual_seed(0)
    pairs_only = model_recipe(sources=[{"pairs": {"a": "ivf/train/visible", "b": "ivf/train/infrared"}}])
    config = ViewConfig(**{**VIEWS, "cross": 1.0, "mirror": 0.0, **STILL})
    views = ViewSampler(data_root, pairs_only.sources, config, torch.device("cpu")).draw(32)
    whole = patches(views.canvas)
    chosen = whole.gather(1, views.places.unsqueeze(2).expand(-1, -1, 256))
    assert torch.equal(patches(views.partner), chosen)  # what the targets are computed from
    assert (views.window - views.partner).abs().mean(dim=(1, 2, 3)).min() > 0.01


def test_windows_lie_anywhere_and_the_same_seed_draws_the_same(data_root):
    torch.manual_seed(0)
    source = sampler(data_root, margin=2)
    drawn = [source.draw(32) for _ in range(12)]
    assert {int(places[0]) for views in drawn for places in views.places} > {0, 1, 4}
    torch.manual_seed(0)
    again = source.draw(32)
    assert all(map(torch.equal, again, drawn[0]))


def test_images_smaller_than_a_canvas_are_enlarged(data_root):
    views = sampler(data_root, zoom=[2.0, 3.0]).draw(96)
    assert views.window.shape[-1] == 96
    assert views.canvas.std() > 0.01


def test_masks_are_blobs_of_the_wanted_size():
    torch.manual_seed(0)
    masks = draw_masks(200, 8, (0.25, 0.5))
    shares = masks.float().mean(dim=1)
    assert shares.min() >= 0.25
    assert shares.max() <= 0.5
    assert shares.std() > 0.03
    grid = masks.view(-1, 8, 8)
    alike = (grid[:, 1:] == grid[:, :-1]).float().mean()
    assert alike > 0.75  # 0.53 for patches drawn one by one
    for share in ((0.01, 0.02), (0.98, 0.99)):
        counts = draw_masks(10, 2, share).sum(dim=1)
        assert 1 <= counts.min() <= counts.max() <= 3


def stripes(angle, side=64):
    y, x = torch.meshgrid(torch.arange(side) / 16, torch.arange(side) / 16, indexing="ij")
    angle = torch.tensor(angle).deg2rad()
    return (0.5 + 0.4 * torch.sin(12 * (x * angle.cos() + y * angle.sin())))[None, None]


def test_edges_do_not_depend_on_tone_but_on_direction():
    image = stripes(20.0)
    edges = edge_directions(image)
    assert edges.shape == (1, 16, EDGE_VALUES)
    same = F.cosine_similarity(edge_directions(1 - image), edges, dim=2)
    assert same.min() > 0.99
    weaker = F.cosine_similarity(edge_directions(0.4 + 0.3 * image), edges, dim=2)
    assert weaker.min() > 0.99
    other = F.cosine_similarity(edge_directions(stripes(110.0)), edges, dim=2)
    assert other.max() < 0.2
    assert edges.norm(dim=2).min() > 0.95
    assert edge_directions(0.5 + 0.001 * torch.randn(1, 1, 32, 32)).norm(dim=2).max() < 0.3
