"""Whitening and augmentation at odd sizes and with wrong arguments."""

import pytest
import torch

from effdl_nb.condensation.images import (
    GROUPS,
    ChannelWhitening,
    augment,
    draw_augmentation,
    fit_zca,
    to_unit,
    whitening_from,
)


def test_one_image_or_odd_shapes():
    with pytest.raises(ValueError, match="at least 2"):
        fit_zca(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="N, C, H, W"):
        to_unit(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="channel.*zca"):
        whitening_from("pca", {})


@pytest.mark.parametrize("channels, size", [(1, 28), (3, 32), (3, 7)])
def test_augmentation_of_any_size_and_grayscale(channels, size):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(4, channels, size, size, generator=gen)
    for group in GROUPS:
        out = augment(x, draw_augmentation(4, gen, group))
        assert out.shape == x.shape and torch.isfinite(out).all()


def test_augmentation_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    augment(torch.zeros(2, 3, 8, 8), draw_augmentation(2, torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="color"):
        draw_augmentation(2, None, "color_blur")
    with pytest.raises(ValueError, match="must be 2, as the draw"):
        augment(torch.zeros(3, 3, 8, 8), draw_augmentation(2, None))


@pytest.mark.parametrize("std", [(0.2, 0.0, 0.2), (0.2, float("nan"), 0.2), (-0.1, 0.2, 0.2)])
def test_a_degenerate_deviation_is_not_divided_by(std):
    with pytest.raises(ValueError, match="std must be positive in every channel, not"):
        ChannelWhitening((0.5,) * 3, std)
