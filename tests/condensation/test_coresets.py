"""Coresets: choices by random, herding and forgetting."""

from dataclasses import replace

import pytest
import torch

from effdl_nb.condensation.coresets import (
    CoresetConfig,
    RandomConfig,
    forgetting_coreset,
    forgetting_events,
    herd,
    herding_coreset,
    random_coreset,
    train_on_all,
    trained_coreset,
    training_record,
)
from effdl_nb.condensation.learning import Run

QUIET = Run(progress=False)
CONFIG = CoresetConfig(network="convnet-2", width=4, epochs=3, batch_size=10, lr=0.05)
MAKERS = {
    "random": lambda real, n: random_coreset(real, RandomConfig(n)),
    "herding": lambda real, n: herding_coreset(real, lambda z: z.flatten(1), n),
    "forgetting": lambda real, n: forgetting_coreset(real, torch.zeros(len(real.images)), n),
}


def test_the_record_is_deterministic_and_leaves_the_global_generator(real):
    state = torch.random.get_rng_state()
    a, b = (training_record(real, CONFIG, QUIET) for _ in range(2))
    assert a.shape == (3, 30) and a.dtype == torch.bool and torch.equal(a, b)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_record_asks_the_network_after_each_epoch(real):
    record = training_record(real, CONFIG, QUIET)
    model = train_on_all(real, CONFIG, run=QUIET).eval()
    with torch.no_grad():
        last = model(real.images).argmax(1) == real.labels
    assert torch.equal(record[-1], last)


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
    made = forgetting_coreset(real, events, 2)
    assert made.details["index"][:3] == [6, 9, 4]
    assert made.details["events"][:3] == [3, 1, 2]
    assert made.method == "forgetting" and made.labels.tolist() == [0, 0, 1, 1, 2, 2]
    others = [forgetting_coreset(real, events, 2, seed) for seed in range(5)]
    assert len({tuple(other.details["index"][4:]) for other in others}) > 1
    assert [other.seed for other in others] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", MAKERS)
def test_too_few_images_and_one_class(real, method):
    make = MAKERS[method]
    assert make(real, 11).labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    with pytest.raises(ValueError, match="class 3 has 0 images"):
        make(replace(real, classes=("a", "b", "c", "d")), 1)
    one = replace(real, labels=torch.zeros_like(real.labels), classes=("only",))
    assert len(make(one, 4)) == 4


def test_counts_of_other_images(real):
    with pytest.raises(ValueError, match="each of the 30 images, not 29"):
        forgetting_coreset(real, torch.zeros(29), 1)


def test_herding_golden_and_misuse(real):
    # features 0, 1, 2, 9 with mean 3: nearest to 3 is 2; then pair means 1, 1.5, 5.5: 1.5 is
    # nearest, feature 1; then (2 + 1 + x)/3: 9 gives 4, 0 gives 1, so 9
    assert herd(torch.tensor([[0.0], [1], [2], [9]]), 4).tolist() == [2, 1, 3, 0]
    with pytest.raises(ValueError, match=r"1\.\.2"):
        herd(torch.zeros(2, 1), 3)
    assert len(herding_coreset(real, lambda x: x.flatten(1), 11)) == 30


def test_herding_takes_the_features_of_the_network_it_trains(real):
    config = replace(CONFIG, method="herding", ipc=2, seed=5)
    made = trained_coreset(real, config, QUIET)
    features = train_on_all(real, config, run=QUIET).features
    by_hand = herding_coreset(real, features, 2)
    assert made.details["index"] == by_hand.details["index"]
    assert (made.method, made.seed) == ("herding", 5)


def test_published_settings():
    training = CoresetConfig().training()
    assert (training.epochs, training.batch_size, training.milestones) == (200, 128, (60, 120, 160))
    assert (training.lr, training.gamma, training.nesterov) == (0.1, 0.2, True)


@pytest.mark.parametrize(
    "wrong", [{"method": "dm"}, {"epochs": 0}, {"ipc": 0}, {"lr": -1.0}, {"batch_size": 0}]
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        replace(CONFIG, **wrong)
