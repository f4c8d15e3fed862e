"""The evaluator: one test per network, the right space, misuse."""
from dataclasses import replace

import pytest
import torch

from effdl_nb import training
from effdl_nb.condensation import evaluation as module
from effdl_nb.condensation.coresets import herd, herding_coreset, random_coreset
from effdl_nb.condensation.evaluation import Evaluation, evaluate
from effdl_nb.condensation.images import ChannelWhitening
from effdl_nb.data import ImageDataset, Split

QUICK = {"network": "convnet-2", "width": 4, "epochs": 4, "runs": 2, "progress": False}


def toy(size=8, classes=3, n=30):
    gen = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    images = (torch.randint(0, 100, (n, 3, size, size), generator=gen) + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    split = Split(images, labels)
    return ImageDataset("toy", split, split, tuple("abc"[:classes]), (0.4,) * 3, (0.2,) * 3, "digest", "made here")


def sample(dataset, ipc=2):
    w = ChannelWhitening(dataset.mean, dataset.std)
    return random_coreset(w.encode(dataset.train.images), dataset.train.labels, ipc=ipc, classes=dataset.classes, whitening=w)


def test_each_network_is_tested_once(monkeypatch):
    calls = []
    monkeypatch.setattr(training, "evaluate", lambda *a, **k: calls.append(1) or 50.0)
    result = evaluate(sample(toy()), toy(), **QUICK)
    assert len(calls) == 2 and result.values == (50.0, 50.0) and result.deviation == 0


def test_seeds_make_networks(monkeypatch):
    s, d = sample(toy()), toy()
    a, b = evaluate(s, d, **QUICK), evaluate(s, d, **{**QUICK, "runs": 1}, seed=1)
    assert a.values[1] == b.values[0] and a.settings["train"]["seed"] == 0
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert evaluate(s, d, **QUICK).values == a.values


def test_it_learns_an_easy_problem():
    assert evaluate(sample(toy()), toy(), **{**QUICK, "epochs": 100, "width": 8}, rate=0.1, augmentation=False).mean > 80


def test_soft_labels_train_too():
    s = sample(toy())
    soft = replace(s, labels=torch.nn.functional.one_hot(s.labels, 3).float())
    assert evaluate(soft, toy(), **QUICK, augmentation=False).values == evaluate(s, toy(), **QUICK, augmentation=False).values


def test_rates():
    s = replace(sample(toy()), rate=0.05)
    used = lambda **k: evaluate(s, toy(), **QUICK, **k).settings["train"]["lr"]  # noqa: E731
    assert used() == 0.05 and used(protocol="dc") == module.FIXED_RATE and used(rate=0.3) == 0.3


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"epochs": 0}, {"protocol": "max"}, {"network": "mlp"}, {"rate": -0.1}])
def test_misuse(wrong):
    with pytest.raises(ValueError):
        evaluate(sample(toy()), toy(), **{**QUICK, **wrong})


def test_classes_must_match():
    with pytest.raises(ValueError, match="3 classes, the data set 2"):
        evaluate(sample(toy()), toy(classes=2), **QUICK)


def test_statistics_golden():
    e = Evaluation((10.0, 20.0, 30.0), {})
    assert e.mean == 20 and e.deviation == 10 and str(e) == "20.0 ± 10.0 % (n = 3)"


def test_herding_golden_and_misuse():
    # features 0, 1, 2, 9 with mean 3: nearest to 3 is 2; then pair means 1, 1.5, 5.5: 1.5 is nearest, feature 1;
    # then (2 + 1 + x)/3: 9 gives 4, 0 gives 1, so 9
    assert herd(torch.tensor([[0.0], [1], [2], [9]]), 4).tolist() == [2, 1, 3, 0]
    with pytest.raises(ValueError, match=r"1\.\.2"):
        herd(torch.zeros(2, 1), 3)
    d = toy()
    w = ChannelWhitening(d.mean, d.std)
    with pytest.raises(ValueError, match="class 0 has 10 images"):
        herding_coreset(w.encode(d.train.images), d.train.labels, lambda x: x.flatten(1), ipc=11, classes=d.classes, whitening=w)
