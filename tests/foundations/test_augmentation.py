"Cropping, flipping and mixing move pixels, invent none, and label what they mix."

import numpy as np
import pytest
import torch

from effdl_nb.augmentation import crop_flip, cutmix, cutmix_box, mix_batch, mixup


def test_crop_flip_moves_pixels_and_invents_none():
    images = torch.arange(1, 1 + 50 * 3 * 6 * 6).reshape(50, 3, 6, 6).float()
    g = torch.Generator().manual_seed(0)
    out = crop_flip(images, g, pad=2)
    assert out.shape == images.shape and out.dtype == images.dtype
    for a, b in zip(out, images, strict=True):
        kept = a[a > 0]
        assert (
            set(kept.tolist()) <= set(b.flatten().tolist())
            and len(kept.unique()) == len(kept) >= 3 * 16
        )
    only_flipped = crop_flip(images, g, pad=0)
    assert all(
        torch.equal(a, b) or torch.equal(a, b.flip(-1))
        for a, b in zip(only_flipped, images, strict=True)
    )


@pytest.mark.parametrize("lam", [0.0, 0.25, 0.8, 1.0])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.5, 0.5), (0.99, 0.3)])
def test_cutmix_label_share_is_the_pixel_share(lam, centre):
    images = torch.stack([torch.zeros(3, 10, 14), torch.ones(3, 10, 14)])
    mixed, share = cutmix(images, torch.tensor([1, 0]), cutmix_box(10, 14, lam, *centre))
    assert mixed[0].mean().item() == pytest.approx(1 - share) and mixed[
        1
    ].mean().item() == pytest.approx(share)
    # the input is left alone; clipping only raises the share
    assert images[0].max() == 0 and share >= lam - 0.15


def test_mixup_is_linear_and_a_fixed_point_for_equal_images():
    x, partner = torch.randn(5, 3, 4, 4), torch.tensor([1, 2, 3, 4, 0])
    torch.testing.assert_close(mixup(x, partner, 0.7), 0.7 * x + 0.3 * x[partner])
    assert torch.equal(mixup(x, partner, 1.0), x) and torch.equal(
        mixup(x[:1].expand(5, -1, -1, -1), partner, 0.4)[0], x[0]
    )


def test_mixing_shares_follow_the_beta_distribution():
    g = torch.Generator().manual_seed(0)
    shares = np.array(
        [mix_batch(torch.zeros(2, 1, 1, 1), g, "mixup", 0.5, (1, s))[2] for s in range(3000)]
    )
    # Beta(a, a) has variance 1 / (4 (2a + 1))
    assert abs(shares.mean() - 0.5) < 0.02 and abs(shares.var() - 1 / 8) < 0.01
