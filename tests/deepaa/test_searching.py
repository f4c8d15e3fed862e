"What searches share: the proxy, its split, and a state that resumes."

import torch
from small_search import data

from effdl_nb.deepaa.searching import (
    pretrain_proxy,
)
from effdl_nb.optimization import TrainConfig


def test_the_proxy_repeats_and_does_not_disturb_the_global_generator():
    looked_at, config = data(), TrainConfig(epochs=1, batch_size=12)
    state = torch.get_rng_state()
    args = (
        "small-convnet",
        looked_at.train.images,
        looked_at.train.labels,
        config,
        looked_at.mean,
        looked_at.std,
    )
    first, second = (pretrain_proxy(*args, num_classes=3, progress=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and not first.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
