"""The evaluator: one test per network, the right space, the ceiling, DD-Ranking, misuse."""

import math
from dataclasses import replace

import pytest
import torch
from toys import toy

from effdl_nb import training
from effdl_nb.condensation import evaluation as module
from effdl_nb.condensation.coresets import RandomConfig, random_coreset
from effdl_nb.condensation.evaluation import (
    ARCHITECTURES,
    Evaluation,
    EvaluationConfig,
    Ranking,
    cross_architecture,
    evaluate,
    hard_labels,
    rank,
    whole_set,
)
from effdl_nb.condensation.images import ChannelWhitening
from effdl_nb.condensation.real import prepare
from effdl_nb.data import Split

QUICK = {"network": "convnet-2", "width": 4, "epochs": 4, "runs": 2, "progress": False}


def sample(dataset, ipc=2):
    return random_coreset(prepare(dataset, "channel"), RandomConfig(ipc))


def test_each_network_is_tested_once(monkeypatch):
    calls = []
    monkeypatch.setattr(training, "accuracy_of", lambda *a, **k: calls.append(1) or 50.0)
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
    longer = {**QUICK, "epochs": 100, "width": 8}
    assert evaluate(sample(toy()), toy(), **longer, lr=0.1, strategy="none").mean > 80


def test_soft_labels_train_too():
    s = sample(toy())
    soft = replace(s, labels=torch.nn.functional.one_hot(s.labels, 3).float())
    assert (
        evaluate(soft, toy(), **QUICK, strategy="none").values
        == evaluate(s, toy(), **QUICK, strategy="none").values
    )


def test_learning_rates():
    s = replace(sample(toy()), lr=0.05)

    def used(**options):
        settings = evaluate(s, toy(), **QUICK, **options).settings
        return settings["train"]["lr"], settings["lr_source"]

    assert used() == used(protocol="mtt") == (0.05, "learned")
    assert used(protocol="dc") == (module.FIXED_LR, "fixed") and used(lr=0.3) == (0.3, "fixed")


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
    monkeypatch.setattr(module, "train_fresh", lambda whole, *a: seen.append(whole) or 1)
    monkeypatch.setattr(training, "accuracy_of", lambda *a: 60.0)
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
    # full .9, set .5 hard and .6 as it is, random .2: HLR .4, IOR .4; with w = 1/4
    # alpha = .1 - .3 = -.2,
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
    assert (r.full, r.as_made, r.hard, r.random) == (85.0, 10.0, 20.0, 30.0)
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
    with pytest.raises(ValueError, match="must be 5 of each of 3 classes to be labelled, not 6"):
        hard_labels(replace(s, labels=torch.full((6, 3), 1 / 3), ipc=5))


def test_hard_labels_of_a_merged_set_know_how_many_images_each_class_has():
    s = sample(toy())
    soft = replace(s, labels=torch.eye(3)[s.labels])
    merged = soft.merge(replace(soft, classes=(s.classes[2], "x", "y")))
    assert merged.ipc == 4 and merged.details["fewer"] == {
        name: 2 for name in merged.classes if name != s.classes[2]
    }
    assert torch.equal(hard_labels(merged).labels, merged.labels.argmax(1))
    assert "fewer" not in s.merge(s).details


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
    "wrong",
    [
        {"runs": 0},
        {"epochs": 0},
        {"protocol": "max"},
        {"network": "mlp"},
        {"lr": -0.1},
        {"strategy": "zoom"},
        {"batch_size": 0},
        {"rate": 0.1},
    ],
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
    one = Evaluation((10.0,), {})
    assert one.deviation is None and str(one) == "10.0 % (n = 1)"


def test_options_stand_over_a_configuration():
    config = EvaluationConfig(network="convnet-2", width=4, epochs=4, runs=2)
    whole = evaluate(sample(toy()), toy(), config, progress=False)
    assert whole == evaluate(sample(toy()), toy(), **QUICK)
    one = evaluate(sample(toy()), toy(), config, runs=1, progress=False)
    assert one.values == whole.values[:1] and one.settings["width"] == 4
    with pytest.raises(ValueError, match="'rate' is unknown; allowed: network, runs, protocol"):
        evaluate(sample(toy()), toy(), config, rate=0.1)


def test_the_defaults_are_those_of_the_dissertation():
    c = EvaluationConfig()
    assert (c.runs, c.epochs, c.protocol, c.network, c.norm) == (
        4,
        1000,
        "thesis",
        "convnet-3",
        "instance",
    )
    assert tuple(ARCHITECTURES) == ("ConvNet", "ResNet18", "VGG", "AlexNet")


def test_classes_in_another_order_are_found_by_name():
    d = toy()
    turn = torch.tensor([2, 0, 1])  # class k of `d` is class turn[k] of `turned`
    names = tuple(d.classes[k] for k in turn.argsort())
    test = Split(d.test.images, turn[d.test.labels])
    turned = replace(d, classes=names, test=test)
    assert evaluate(sample(d), turned, **QUICK).values == evaluate(sample(d), d, **QUICK).values
    with pytest.raises(ValueError, match="only one of them knows 'c', 'd'"):
        evaluate(sample(d), replace(d, classes=("a", "b", "d")), **QUICK)


def test_the_next_network_waits_for_no_unknown_one(monkeypatch):
    monkeypatch.setattr(module, "train_fresh", lambda *a: pytest.fail("trained"))
    networks = {"ConvNet": "convnet-2", "other": "convnet-x"}
    with pytest.raises(ValueError, match="'convnet-x'"):
        cross_architecture(sample(toy()), toy(), networks, progress=False)


def test_results_are_handed_out_as_they_come():
    networks, seen = {"two": "convnet-2", "one": "convnet-1"}, []
    widths, how = {"convnet-2": 4, "convnet-1": 4}, {"epochs": 1, "runs": 1, "progress": False}
    results = cross_architecture(
        sample(toy()), toy(), networks, widths, lambda *result: seen.append(result), **how
    )
    assert seen == list(results.items()) and [name for name, _ in seen] == ["two", "one"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y - 1, "to test on must lie in 0..2, not -1..1"),
        (lambda y: y.float(), "to test on must be whole numbers, not torch.float32"),
    ],
)
def test_labels_to_test_on_that_are_none(change, words):
    test = Split(toy().test.images, change(toy().test.labels))
    with pytest.raises(ValueError, match=words):
        evaluate(sample(toy()), replace(toy(), test=test), **QUICK)


def test_labels_to_test_on_of_another_integer_type():
    test = Split(toy().test.images, toy().test.labels.int())
    plain, other = (evaluate(sample(toy()), d, **QUICK) for d in (toy(), replace(toy(), test=test)))
    assert plain.values == other.values


def test_a_learned_rate_at_its_bound_is_named():
    made = replace(sample(toy()), lr=1.0, details={"lr_at_bound": [1.0]})
    assert evaluate(made, toy(), **QUICK).settings["lr_source"] == "learned, at its bound"
    assert evaluate(made, toy(), **QUICK, lr=0.1).settings["lr_source"] == "fixed"


def test_random_images_of_a_ranking_keep_their_class_names(monkeypatch):
    seen = []

    def noted(condensed, dataset, **options):
        seen.append(condensed)
        return Evaluation((50.0,), {})

    monkeypatch.setattr(module, "evaluate", noted)
    made, other = sample(toy()), replace(toy(), classes=("c", "a", "b"))
    module.rank(made, other, 90.0)
    for image, label in zip(seen[-1].to_raw(), seen[-1].labels.tolist(), strict=True):
        same = (other.train.images == (image * 255).round().to(torch.uint8)).flatten(1).all(1)
        assert other.classes[other.train.labels[same][0]] == made.classes[label]
