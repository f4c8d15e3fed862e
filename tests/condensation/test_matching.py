"""Class-wise matching: laws of the distances, failure cases, resuming."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from resuming import check_resuming
from torch import nn

from effdl_nb.condensation import matching as module
from effdl_nb.condensation.learning import NonFiniteSteps, Run
from effdl_nb.condensation.matching import (
    PUBLISHED,
    MatchingConfig,
    condense_matching,
    feature_terms,
    gradient_terms,
    layer_outputs,
    layer_terms,
    row_distance,
)
from effdl_nb.condensation.sets import CondensedSet
from effdl_nb.networks import build
from effdl_nb.settings import resolve

CONFIG = MatchingConfig(
    "dm", network="convnet-2", width=4, iterations=4, batch_real=6, image_lr=0.1
)


def condense(real, config=CONFIG, **run):
    return condense_matching(real, config, Run(progress=False, **run))


def test_row_distance_knows_directions_only():
    a, b = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(
        row_distance(a, b),
        row_distance(3 * a, b * torch.arange(1, 6).view(5, 1, 1, 1)),
        atol=1e-4,
        rtol=0,
    )
    assert 0 <= row_distance(a, b) <= 10


@pytest.mark.parametrize("terms", [gradient_terms, feature_terms, layer_terms])
def test_one_class_with_one_image_is_finite(terms):
    model = build("convnet-2", 1, width=4, image_size=8)
    x, s = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8, requires_grad=True)
    total = sum(terms(model, [(x, s)]))
    assert torch.isfinite(total) and torch.isfinite(torch.autograd.grad(total, s)[0]).all()


def test_unequal_batches_and_groups(monkeypatch):
    model, gen = build("convnet-2", 3, width=4, image_size=8), torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(n, 3, 8, 8, generator=gen), torch.randn(2, 3, 8, 8, generator=gen))
        for n in (1, 4, 2)
    ]
    whole = [sum(terms(model, pairs)) for terms in (feature_terms, layer_terms)]
    monkeypatch.setattr(module, "AT_ONCE", 4)
    assert len(list(feature_terms(model, pairs))) == 3
    for terms, value in zip((feature_terms, layer_terms), whole, strict=True):
        torch.testing.assert_close(sum(terms(model, pairs)), value)


def test_cafe_says_what_networks_it_takes():
    bare = nn.Module()
    bare.classifier = nn.Linear(4, 2)
    bare.forward = bare.classifier.forward
    with pytest.raises(ValueError, match="convnet-D"):
        layer_outputs(bare, torch.zeros(1, 4))


@pytest.mark.parametrize("method", PUBLISHED)
def test_every_method_runs_and_is_deterministic(real, method):
    config = replace(
        CONFIG, method=method, ipc=2, iterations=2, outer_steps=2, inner_epochs=2, image_lr=None
    )
    state = torch.random.get_rng_state()
    a, b = (condense(real, config) for _ in range(2))
    assert (
        isinstance(a, CondensedSet)
        and a.method == method
        and a.labels.tolist() == [0, 0, 1, 1, 2, 2]
    )
    assert torch.equal(a.images, b.images) and a.details == b.details
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(a.images, condense(real, replace(config, seed=1)).images)


def test_settings_kept_with_the_set_are_complete(real):
    s = condense(
        real, MatchingConfig("dsa", network="convnet-2", width=4, iterations=1, batch_real=4)
    ).details["settings"]
    assert (s["outer_steps"], s["inner_epochs"], s["image_lr"], s["init"]) == (1, 1, 0.1, "real")
    assert resolve(MatchingConfig("cafe")).milestones == (1200, 1400, 1800)


def test_the_rate_is_halved_at_milestones(real):
    still = replace(CONFIG, image_momentum=0.0, iterations=1, strategy="none")
    a, b = (
        condense(real, replace(still, milestones=(0,))),
        condense(real, replace(still, image_lr=0.05, milestones=())),
    )
    torch.testing.assert_close(a.images, b.images)


def test_a_class_with_fewer_images_than_ipc(real):
    assert len(condense(real, replace(CONFIG, ipc=11, init="real"))) == 30
    assert len(condense(real, replace(CONFIG, ipc=11, init="noise"))) == 33
    with pytest.raises(ValueError, match="class 3 has 0 images"):
        condense(replace(real, classes=("a", "b", "c", "d")))
    # fewer than a real batch is fine: the class gives all it has
    assert len(condense(real, replace(CONFIG, batch_real=999, iterations=1))) == 3


@pytest.mark.parametrize("method", ["dsa", "dm", "cafe"])
def test_one_class(real, method):
    one = replace(real, labels=torch.zeros_like(real.labels), classes=("only",))
    made = condense(one, replace(CONFIG, method=method, outer_steps=2, inner_epochs=1))
    assert len(made) == 1 and torch.isfinite(made.images).all()


def test_a_nan_step_is_skipped_and_the_rest_is_used(real, monkeypatch):
    calls = []

    def sometimes(model, pairs):
        calls.append(1)
        for term in feature_terms(model, pairs):
            yield term * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setitem(module.TERMS, "dm", sometimes)
    made = condense(real)
    assert (
        made.details["skipped"] == 1
        and made.details["curve"]["loss"][1] is None
        and torch.isfinite(made.images).all()
    )


def test_divergence_is_an_error(real):
    with pytest.raises(NonFiniteSteps, match="in a row"):
        condense(
            real,
            replace(
                CONFIG,
                method="dsa",
                image_lr=1e38,
                iterations=50,
                max_skipped=3,
                outer_steps=2,
                inner_epochs=1,
            ),
        )


@pytest.mark.parametrize(("method", "optimizer"), [("dsa", "adam"), ("cafe", "sgd"), ("dm", "sgd")])
def test_resume_equals_uninterrupted(real, tmp_path, method, optimizer):
    config = replace(
        CONFIG, method=method, image_optimizer=optimizer, outer_steps=2, inner_epochs=2
    )
    check_resuming(partial(condense, real), config, replace(config, seed=1), tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "mtt"},
        {"ipc": 0},
        {"init": "zeros"},
        {"image_lr": math.nan},
        {"image_lr": -1.0},
        {"strategy": "zoom"},
        {"image_optimizer": "lion"},
        {"batch_real": 0},
        {"inner_epochs": -1},
        {"image_momentum": 1.5},
        {"milestones": ("a",)},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        replace(CONFIG, **wrong)
    with pytest.raises(TypeError):
        MatchingConfig(iters=3)


def test_save_and_load(real, tmp_path):
    made = condense(real)
    made.save(tmp_path / "set.safetensors")
    back = CondensedSet.load(tmp_path / "set.safetensors")
    assert torch.equal(back.images, made.images) and back.details["settings"]["method"] == "dm"
    assert made.to_raw().min() >= 0 and made.to_raw().max() <= 1
