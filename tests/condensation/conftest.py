"What the tests of condensation share: a few real images in model space, and experts on them."

import pytest
import torch

from effdl_nb.condensation.experts import ExpertConfig, Experts, train_experts
from effdl_nb.condensation.images import ChannelWhitening
from effdl_nb.condensation.real import RealImages


@pytest.fixture(scope="session")
def real() -> RealImages:
    "Thirty images of three classes, 8 x 8 pixels; tests change a copy, by `dataclasses.replace`."
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(30, 3, 8, 8, generator=generator)
    whitening = ChannelWhitening((0.5,) * 3, (0.25,) * 3)
    return RealImages(images, torch.arange(30) % 3, ("a", "b", "c"), whitening)


@pytest.fixture(scope="session")
def experts(real, tmp_path_factory) -> Experts:
    "Two networks trained on `real` for two epochs."
    config = ExpertConfig(network="convnet-2", width=4, epochs=2, lr=0.05, batch_size=10)
    folder = tmp_path_factory.mktemp("experts")
    return train_experts(folder, real.images, real.labels, 3, 2, config, progress=False)
