"What the tests of condensation share: a few real images in model space."

import pytest
import torch

from effdl_nb.condensation.images import ChannelWhitening
from effdl_nb.condensation.real import RealImages


@pytest.fixture(scope="session")
def real() -> RealImages:
    "Thirty images of three classes, 8 x 8 pixels; tests change a copy, by `dataclasses.replace`."
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(30, 3, 8, 8, generator=generator)
    whitening = ChannelWhitening((0.5,) * 3, (0.25,) * 3)
    return RealImages(images, torch.arange(30) % 3, ("a", "b", "c"), whitening)
