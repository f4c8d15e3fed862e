"Magnitudes from a continuum fill their ranges."

import math

import pytest
import torch

from effdl_nb.deepaa.continuous import ContinuousPolicy, uniform_augment
from effdl_nb.deepaa.space import cifar_space, imagenet_space, space_of

CIFAR, IMAGENET = cifar_space(), imagenet_space()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_uniform_augment_magnitudes_fill_their_ranges():
    mine = uniform_augment(CIFAR, defaults=False)
    draw = mine.sample(20_000, seeded())
    for name, low, high in (
        ("ShearX", -0.3, 0.3),
        ("Solarize", 0, 256),
        ("Cutout", 0, 0.2),
        ("Contrast", 0.1, 1.9),
    ):
        wanted = [
            n for n, t in enumerate(mine.space.transforms) if t.name == name and n in mine.ranges
        ]
        values = draw.magnitudes[torch.isin(draw.indices, torch.tensor(wanted))]
        assert (
            low <= values.min() < low + 0.02 * (high - low)
            and high - 0.02 * (high - low) < values.max() <= high
        )
        assert values.mean() == pytest.approx(
            (low + high) / 2, abs=4 * (high - low) / (12 * len(values)) ** 0.5
        )
    assert torch.isnan(draw.magnitudes[draw.indices == 0]).all()
    assert all(
        t.name in ("Identity", "AutoContrast", "Invert", "Equalize") or t.magnitude is not None
        for t in sum(mine.transforms(draw[:200]), [])
    )


@pytest.mark.parametrize(
    "ranges", [{0: (0.0, 1.0)}, {1: (5.0, -5.0)}, {1: (0.0, math.inf)}, {1: (math.nan, 1.0)}]
)
def test_ranges_that_cannot_work_raise(ranges):
    with pytest.raises(ValueError):
        ContinuousPolicy([[0.5, 0.5]], ranges, space_of("one", {"Identity": None, "Rotate": [3]}))
