"""What the residual is added to."""

import pytest
import torch

from models.reference import REFERENCES, box_mean, salient_sum
from models.tone import mean_level


def texture(seed, strength, size=(60, 72)):
    torch.manual_seed(seed)
    return strength * (torch.rand(1, 1, *size) - 0.5)


def test_box_mean_is_the_mean_of_the_window_with_a_replicated_border():
    x = torch.arange(20.0).reshape(1, 1, 4, 5)
    y = box_mean(x, 3)
    assert float(y[0, 0, 1, 1]) == pytest.approx(float(x[0, 0, :3, :3].mean()))
    assert float(y[0, 0, 0, 0]) == pytest.approx((4 * 0 + 2 * 1 + 2 * 5 + 6) / 9)
    assert torch.equal(box_mean(torch.full((1, 1, 4, 5), 0.25), 3), torch.full((1, 1, 4, 5), 0.25))


def test_salient_sum_keeps_the_stronger_detail_whole_and_drops_the_weaker():
    strong, weak = texture(1, 0.3), texture(2, 0.05)
    a, b = 0.5 + strong, 0.45 + weak
    fused = salient_sum(a, b, mean_level(a, b))
    fine = strong - box_mean(box_mean(strong, 9), 9)
    got = fused - box_mean(box_mean(fused, 9), 9)
    inside = (..., slice(16, -16), slice(16, -16))
    kept = torch.corrcoef(torch.stack([fine[inside].flatten(), got[inside].flatten()]))[0, 1]
    assert kept > 0.99
    assert float(got[inside].std() / fine[inside].std()) == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(fused, salient_sum(b, a, mean_level(a, b)))


def test_salient_sum_takes_each_place_from_the_source_that_shows_more_there():
    left = torch.zeros(1, 1, 60, 72)
    left[..., :36] = 1.0
    a, b = 0.5 + left * texture(3, 0.3), 0.5 + (1 - left) * texture(4, 0.3)
    fused = salient_sum(a, b, mean_level(a, b))
    for columns, source in ((slice(0, 20), a), (slice(-20, None), b)):
        both = torch.stack([fused[..., 20:40, columns].flatten(), source[..., 20:40, columns].flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.98


@pytest.mark.parametrize("name", ["centred", "salient"])
def test_products_stay_in_range_where_the_plain_sum_does_not(name):
    a, b = torch.rand(2, 1, 1, 40, 40, generator=torch.Generator().manual_seed(5))
    assert float(REFERENCES["sum"](a, b, mean_level(a, b)).max()) > 1.0
    fused = REFERENCES[name](a, b, mean_level(a, b))
    assert float(fused.min()) >= 0.0
    assert float(fused.max()) <= 1.0
