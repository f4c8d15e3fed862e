"""The evaluator: one test per network, the right space, the ceiling, other networks, DD-Ranking, misuse."""

import math
from dataclasses import replace

import pytest
import torch

from effdl_nb import training
from effdl_nb.condensation import evaluation as module
from effdl_nb.condensation.coresets import herd, herding_coreset, random_coreset
from effdl_nb.condensation.evaluation import (
    Evaluation,
    Ranking,
    cross_architecture,
    evaluate,
    hard_labels,
    rank,
    whole_set,
)
from effdl_nb.condensation.images import ChannelWhitening
from effdl_nb.data import ImageDataset, Split

QUICK = {"network": "convnet-2", "width": 4, "epochs": 4, "runs": 2, "progress": False}


def toy(size=8, classes=3, n=30):
    gen = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    images = (
        torch.randint(0, 100, (n, 3, size, size), generator=gen) + 50 * labels.view(-1, 1, 1, 1)
    ).to(torch.uint8)
    split = Split(images, labels)
    return ImageDataset(
        "toy", split, split, tuple("abc"[:classes]), (0.4,) * 3, (0.2,) * 3, "digest", "made here"
    )


def sample(dataset, ipc=2):
    w = ChannelWhitening(dataset.mean, dataset.std)
    return random_coreset(
        w.encode(dataset.train.images),
        dataset.train.labels,
        ipc=ipc,
        classes=dataset.classes,
        whitening=w,
    )


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
    assert (
        evaluate(
            sample(toy()),
            toy(),
            **{**QUICK, "epochs": 100, "width": 8},
            rate=0.1,
            augmentation=False,
        ).mean
        > 80
    )


def test_soft_labels_train_too():
    s = sample(toy())
    soft = replace(s, labels=torch.nn.functional.one_hot(s.labels, 3).float())
    assert (
        evaluate(soft, toy(), **QUICK, augmentation=False).values
        == evaluate(s, toy(), **QUICK, augmentation=False).values
    )


def test_rates():
    s = replace(sample(toy()), lr=0.05)
    used = lambda **k: evaluate(s, toy(), **QUICK, **k).settings["train"]["lr"]  # noqa: E731
    assert (
        used() == 0.05
        and used(protocol="dc") == module.FIXED_RATE
        and used(rate=0.3) == 0.3
        and used(protocol="mtt") == 0.05
    )


@pytest.mark.parametrize(
    ("protocol", "passes", "drop"), [("thesis", 10, 5), ("mtt", 11, 7), ("dc", 11, 7)]
)
def test_lengths_of_the_protocols(protocol, passes, drop):
    plan = evaluate(
        sample(toy()), toy(), **{**QUICK, "epochs": 10, "runs": 1}, protocol=protocol
    ).settings["train"]
    assert (plan["epochs"], plan["milestones"], plan["gamma"]) == (passes, (drop,), 0.1)


def test_the_ceiling_is_the_whole_training_set(monkeypatch):
    d, seen = toy(), []
    monkeypatch.setattr(module, "_train_fresh", lambda whole, *a: seen.append(whole) or 1)
    monkeypatch.setattr(training, "evaluate", lambda *a: 60.0)
    assert evaluate(d.train, d, **QUICK).mean == 60
    made = whole_set(d.train, d)
    assert (
        len(seen[0]) == len(d.train)
        and torch.equal(seen[0].images, made.images)
        and made.ipc == 10
        and made.method == "real"
    )
    other = ChannelWhitening((0.0,) * 3, (1.0,) * 3)
    assert torch.equal(whole_set(d.train, d, other).images, d.train.images / 255)


def test_other_networks():
    d = toy(size=32)
    widths = {"convnet-3": 4, "resnet-18": 2, "vgg-11": 2, "alexnet": 4}
    found = cross_architecture(sample(d), d, widths=widths, epochs=1, runs=1, progress=False)
    assert {k: (v.settings["network"], v.settings["width"]) for k, v in found.items()} == {
        "ConvNet": ("convnet-3", 4),
        "ResNet18": ("resnet-18", 2),
        "VGG": ("vgg-11", 2),
        "AlexNet": ("alexnet", 4),
    }
    with pytest.raises(ValueError, match="allowed: convnet-3"):
        cross_architecture(sample(d), d, widths={"resnet-50": 4})


def test_ranking_golden():
    # full .9, set .5 hard and .6 as it is, random .2: HLR .4, IOR .4; with w = 1/4 alpha = .1 - .3 = -.2,
    # LRS = (e^-.2 - e^-1) / (e - e^-1) = (.818731 - .367879) / 2.350402 = .191819
    r = Ranking(90.0, 50.0, 60.0, 20.0, 0.25)
    assert (
        r.hlr == pytest.approx(40)
        and r.ior == pytest.approx(40)
        and r.lrs == pytest.approx(19.1819, abs=1e-3)
    )
    # a set as good as all data, random images at 10 %: HLR 0, IOR .8, alpha .4
    assert Ranking(90, 90, 90, 10).lrs == pytest.approx(
        100 * (math.exp(0.4) - math.exp(-1)) / (math.e - math.exp(-1))
    )


def test_ranking_evaluates_what_it_names(monkeypatch):
    d, seen = toy(), []
    soft = replace(sample(d), labels=torch.full((6, 3), 1 / 3))

    def spy(made, dataset, **options):
        seen.append((made.method, made.labels.is_floating_point(), options))
        return Evaluation((10.0 * len(seen),), {})

    monkeypatch.setattr(module, "evaluate", spy)
    r = rank(soft, d, Evaluation((80.0, 90.0), {}), width=4)
    assert [s[:2] for s in seen] == [
        ("random", True),
        ("random", False),
        ("random", False),
    ] and all(s[2] == {"width": 4} for s in seen)
    assert (r.full, r.own, r.hard, r.random) == (85.0, 10.0, 20.0, 30.0)
    seen.clear()
    assert rank(sample(d), d, 80).hard == 10.0 and len(seen) == 2  # hard labels already
    with pytest.raises(ValueError, match="0..1"):
        rank(soft, d, 80, weight=1.5)


def test_hard_labels_of_a_set_in_an_unknown_order():
    s = sample(toy())
    assert (
        hard_labels(replace(s, labels=torch.full((6, 3), 1 / 3))).labels.tolist()
        == [0, 0, 1, 1, 2, 2]
        and hard_labels(s) is s
    )
    with pytest.raises(ValueError, match="6 images are not 5"):
        hard_labels(replace(s, labels=torch.full((6, 3), 1 / 3), ipc=5))


def test_one_class_and_grayscale():
    d = toy(classes=1, n=10)
    assert evaluate(sample(d), d, **QUICK).values == (100.0, 100.0)
    gray = replace(
        toy(), train=Split(toy().train.images[:, :1], toy().train.labels), mean=(0.4,), std=(0.2,)
    )
    gray = replace(gray, test=gray.train)
    assert 0 <= evaluate(sample(gray), gray, **QUICK).mean <= 100
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\), the test images \(3, 8, 8\)"):
        evaluate(sample(gray), toy(), **QUICK)


def test_nothing_to_test_on():
    d = toy()
    with pytest.raises(ValueError, match="no test images"):
        evaluate(sample(d), replace(d, test=Split(d.test.images[:0], d.test.labels[:0])), **QUICK)


@pytest.mark.parametrize(
    "wrong", [{"runs": 0}, {"epochs": 0}, {"protocol": "max"}, {"network": "mlp"}, {"rate": -0.1}]
)
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
        herding_coreset(
            w.encode(d.train.images),
            d.train.labels,
            lambda x: x.flatten(1),
            ipc=11,
            classes=d.classes,
            whitening=w,
        )
