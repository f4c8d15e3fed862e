"Policies that torchvision holds: its draws and its pixels."

import itertools
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from effdl_nb.deepaa.policy import (
    PolicyDraw,
    operation_probabilities,
)
from effdl_nb.deepaa.published import (
    auto_augment,
    from_torchvision,
    rand_augment_policy,
    trivial_augment_policy,
)
from effdl_nb.deepaa.space import cifar_space, imagenet_space

CIFAR, IMAGENET = cifar_space(), imagenet_space()


def images(n=20, height=32, width=32):
    coarse = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").to(
        torch.uint8
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(32, 32), (40, 61)])
def test_autoaugment_is_torchvisions_with_its_own_draws(size):
    autoaugment = pytest.importorskip("torchvision.transforms.autoaugment")
    picture_batch = images(1, *size)
    picture = Image.fromarray(picture_batch[0].permute(1, 2, 0).contiguous().numpy())
    for policy in ("cifar10", "imagenet"):
        mine, rng = auto_augment(CIFAR, policy, defaults=False), seeded(1)
        theirs = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(policy))
        for _ in range(40):
            sub, probabilities = (
                int(torch.randint(25, (1,), generator=rng)),
                torch.rand(2, generator=rng),
            )
            signs = torch.randint(2, (2,), generator=rng)
            with patch.object(
                theirs, "get_params", lambda _, drawn=(sub, probabilities, signs): drawn
            ):
                want = np.asarray(theirs(picture))
            row = []
            for layer, u, sign, (_, p, _) in zip(
                mine.choices[sub], probabilities, signs, theirs.policies[sub], strict=True
            ):
                changing = [n for n, _ in layer if mine.space[n].name != "Identity"]
                row.append(changing[0 if sign or len(changing) == 1 else 1] if u <= p else 0)
            draw = PolicyDraw(torch.tensor([row]), torch.zeros(1, 2, 2, dtype=torch.float64))
            assert np.array_equal(
                mine.apply(picture_batch, draw)[0].permute(1, 2, 0).numpy(), want
            ), (policy, sub, row)


def test_every_randaugment_magnitude_has_torchvisions_pixels():
    autoaugment = pytest.importorskip("torchvision.transforms.autoaugment")
    batch = images(1, 33, 47)
    picture = Image.fromarray(batch[0].permute(1, 2, 0).contiguous().numpy())
    table = autoaugment.RandAugment()._augmentation_space(31, (33, 47))
    for bin_ in (0, 9, 17, 30):
        mine = rand_augment_policy(CIFAR, 1, bin_, defaults=False)
        at = {t: n for n, t in enumerate(mine.space.transforms)}
        for (name, (magnitudes, signed)), sign in itertools.product(table.items(), (1, -1)):
            if sign < 0 and not signed:
                continue
            m = sign * magnitudes[bin_].item() if magnitudes.ndim else 0.0
            want = np.asarray(
                autoaugment._apply_op(
                    picture, name, m, interpolation=autoaugment.InterpolationMode.NEAREST, fill=None
                )
            )
            one = autoaugment.RandAugment()._augmentation_space(31, (1, 1))[name][0]
            t = from_torchvision(
                name, sign * one[bin_].double().item() if magnitudes.ndim else None
            )
            draw = PolicyDraw(torch.tensor([[at[t]]]), torch.zeros(1, 1, 2, dtype=torch.float64))
            assert np.array_equal(mine.apply(batch, draw)[0].permute(1, 2, 0).numpy(), want), (
                name,
                bin_,
                sign,
            )


def test_trivial_augment_is_uniform_over_its_operations():
    for wide in (False, True):
        layer = operation_probabilities(trivial_augment_policy(CIFAR, wide, defaults=False))[0]
        assert (
            sorted(layer.values(), reverse=True)[:14] == pytest.approx([1 / 14] * 14)
            and sum(p > 0 for p in layer.values()) == 14
        )
    with pytest.raises(ValueError, match="0..30"):
        rand_augment_policy(CIFAR, magnitude=31)
