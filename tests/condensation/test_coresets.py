"""Coresets: choices by random, herding and forgetting."""

import pytest
import torch

from effdl_nb.condensation.coresets import (
    FORGETTING,
    forgetting_coreset,
    forgetting_events,
    herding_coreset,
    random_coreset,
    training_record,
)
from effdl_nb.condensation.images import ChannelWhitening
from effdl_nb.training import TrainConfig

KW = {"classes": ("a", "b", "c"), "whitening": ChannelWhitening((0.5,) * 3, (0.25,) * 3)}
PLAN = TrainConfig(epochs=3, batch_size=10, lr=0.05, schedule="constant")


@pytest.fixture(scope="module")
def real():
    gen = torch.Generator().manual_seed(0)
    return torch.randn(30, 3, 8, 8, generator=gen), torch.arange(30) % 3


def record(real, **kw):
    return training_record(*real, 3, PLAN, network="convnet-2", width=4, progress=False, **kw)


def test_the_record_is_deterministic_and_leaves_the_global_generator(real):
    state = torch.random.get_rng_state()
    a, b = record(real), record(real)
    assert a.shape == (3, 30) and a.dtype == torch.bool and torch.equal(a, b)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_forgetting_events_bounds():
    random = torch.rand(10, 200, generator=torch.Generator().manual_seed(0)) < 0.5
    events = forgetting_events(random)
    assert events.min() >= 0 and (events[random.any(0)] <= 5).all()
    assert forgetting_events(torch.ones(1, 4, dtype=torch.bool)).tolist() == [0] * 4
    assert forgetting_events(torch.zeros(1, 4, dtype=torch.bool)).tolist() == [1] * 4
    for wrong in (
        torch.zeros(0, 3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(2, 3),
    ):
        with pytest.raises(ValueError, match="bool"):
            forgetting_events(wrong)


def test_the_most_forgotten_of_each_class_and_chance_among_equals(real):
    events = torch.zeros(30, dtype=torch.long)
    events[[6, 9, 4]] = torch.tensor([3, 1, 2])
    made = forgetting_coreset(*real, events, ipc=2, **KW)
    assert (
        made.details["index"][:2] == [6, 9]
        and made.details["index"][2] == 4
        and made.details["events"][:3] == [3, 1, 2]
    )
    others = {
        tuple(forgetting_coreset(*real, events, ipc=2, seed=s, **KW).details["index"][4:])
        for s in range(5)
    }
    assert len(others) > 1
    assert made.method == "forgetting" and made.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y, n, **kw: random_coreset(x, y, ipc=n, **kw),
        lambda x, y, n, **kw: herding_coreset(x, y, lambda z: z.flatten(1), ipc=n, **kw),
        lambda x, y, n, **kw: forgetting_coreset(x, y, torch.zeros(len(x)), ipc=n, **kw),
    ],
)
def test_too_few_images_and_one_class(real, make):
    with pytest.raises(ValueError, match="class 0 has 10 images, fewer than the 11"):
        make(*real, 11, **KW)
    with pytest.raises(ValueError, match="class 3 has 0 images"):
        make(*real, 1, **{**KW, "classes": ("a", "b", "c", "d")})
    assert len(make(real[0], torch.zeros_like(real[1]), 4, **{**KW, "classes": ("only",)})) == 4


def test_counts_of_other_images(real):
    with pytest.raises(ValueError, match="29 images"):
        forgetting_coreset(*real, torch.zeros(29), ipc=1, **KW)


def test_published_settings():
    assert (FORGETTING.epochs, FORGETTING.batch_size, FORGETTING.milestones) == (
        200,
        128,
        (60, 120, 160),
    )
