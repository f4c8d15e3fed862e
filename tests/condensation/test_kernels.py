"""The neural tangent kernel and KIP: laws, failure cases, resuming."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from resuming import check_resuming

from effdl_nb.condensation import kernels as module
from effdl_nb.condensation.kernels import (
    KernelConfig,
    centred,
    condense_kernel,
    kernel_accuracy,
    kernel_loss,
    ntk,
    ridge_regression,
)
from effdl_nb.condensation.learning import NonFiniteSteps, Run
from effdl_nb.condensation.sets import CondensedSet

CONFIG = KernelConfig(iterations=6, batch_real=12, image_lr=0.05, label_lr=0.05)


@pytest.fixture(scope="module")
def real(real):
    "Images of three classes with means of their own."
    gen = torch.Generator().manual_seed(0)
    means = torch.randn(3, 3, 8, 8, generator=gen)
    images = means[real.labels] + torch.randn(30, 3, 8, 8, generator=gen)
    return replace(real, images=images)


def condense(real, config=CONFIG, **run):
    return condense_kernel(real, config, Run(progress=False, **run))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_kernel_is_symmetric_positive_and_has_a_known_diagonal(depth):
    x = torch.randn(7, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    K = ntk(x, x, depth)
    torch.testing.assert_close(K, K.T)
    assert torch.linalg.eigvalsh(K).min() > 0
    # on the diagonal E0 = 1/2, so Theta <- Sigma + Theta, Sigma <- Sigma + b: depth + 1 terms
    q = 2 * x.square().mean(1) + 0.01
    torch.testing.assert_close(K.diagonal(), sum(q + 0.01 * i for i in range(depth + 1)))


def test_the_kernel_does_not_depend_on_the_coordinates():
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation, _ = torch.linalg.qr(
        torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    torch.testing.assert_close(ntk(x, x, 2), ntk(x @ rotation, x @ rotation, 2))


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 4), torch.ones(2, 4), torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]])]
)
def test_zero_equal_and_opposite_inputs(x):
    for bias in (0.0, 0.1):
        leaf = x.double().requires_grad_()
        K = ntk(leaf, leaf, 2, math.sqrt(2), bias)
        assert (
            torch.isfinite(K).all() and torch.isfinite(torch.autograd.grad(K.sum(), leaf)[0]).all()
        )


def test_gradient_where_all_correlations_are_one():
    # one image against itself: K(x, x) is a polynomial of |x|^2, whose slope is known
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ntk(x, x, 1).sum(), x)
    # K = 2 q + b with q = 2 |x|^2 / 2 + b, dK/dx = 2 * 2 x
    torch.testing.assert_close(slope, 2 * 2 * x.detach() * 2 / 2)


def test_regression_labels_and_ridge():
    assert centred(torch.tensor([1]), 4).tolist() == [[-0.25, 0.75, -0.25, -0.25]]
    K = torch.eye(2, dtype=torch.float64) * 3
    torch.testing.assert_close(
        ridge_regression(K, K, torch.ones(2, 1).double(), 1.0), torch.full((2, 1), 0.5).double()
    )


def test_it_learns(real):
    made = condense(real, replace(CONFIG, iterations=60))
    loss = made.details["curve"]["loss"]
    assert sum(loss[-10:]) < 0.7 * sum(loss[:10]) and made.labels.tolist() == [0, 1, 2]
    assert kernel_accuracy(made, real.images, real.labels, CONFIG) > 80


def test_labels_are_learned_in_two_forms(real, tmp_path):
    made = condense(real, replace(CONFIG, learn_labels=True, iterations=20))
    raw = torch.tensor(made.details["regression_labels"])
    assert (
        made.labels.shape == (3, 3)
        and (made.labels >= 0).all()
        and not torch.equal(raw, centred(torch.arange(3), 3))
    )
    torch.testing.assert_close(made.labels.sum(1), torch.ones(3))
    before = kernel_accuracy(made, real.images, real.labels)
    made.save(tmp_path / "set.safetensors")
    again = CondensedSet.load(tmp_path / "set.safetensors")
    assert kernel_accuracy(again, real.images, real.labels) == before


def test_deterministic_and_resumable(real, tmp_path):
    config = replace(CONFIG, learn_labels=True)
    check_resuming(partial(condense, real), config, replace(config, depth=2), tmp_path)


def test_too_few_images_and_one_class(real):
    assert len(condense(real, replace(CONFIG, ipc=11))) == 30
    one = replace(real, labels=torch.zeros_like(real.labels), classes=("only",))
    made = condense(one)
    assert len(made) == 1 and torch.isfinite(made.images).all()


def test_a_nan_step_and_a_singular_system_are_skipped(real, monkeypatch):
    calls = []

    def sometimes(*args, **kw):
        calls.append(1)
        if len(calls) == 3:
            raise torch.linalg.LinAlgError("singular")
        return kernel_loss(*args, **kw) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(module, "kernel_loss", sometimes)
    made = condense(real)
    assert (
        made.details["skipped"] == 2
        and made.details["curve"]["loss"][1:3] == [None, None]
        and torch.isfinite(made.images).all()
    )


def test_divergence_is_an_error(real, monkeypatch):
    monkeypatch.setattr(module, "kernel_loss", lambda *a, **k: kernel_loss(*a, **k) * math.inf)
    with pytest.raises(NonFiniteSteps, match="in a row"):
        condense(real, replace(CONFIG, iterations=20))


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 0},
        {"init": "zeros"},
        {"ridge": -1.0},
        {"iterations": 0},
        {"weight_std": math.inf},
        {"ipc": 0},
        {"image_lr": math.nan},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        replace(CONFIG, **wrong)


def test_a_set_is_judged_by_the_kernel_it_was_made_for(real):
    config = replace(CONFIG, depth=3, weight_std=1.0, iterations=2)
    made = condense(real, config)
    assert (
        module.kernel_of(made) == config
        and module.kernel_of(replace(made, method="dm")) == KernelConfig()
    )
    loaded = replace(made, details=json.loads(json.dumps(made.details)))
    assert module.kernel_of(loaded) == config
    values = [kernel_accuracy(loaded, real.images, real.labels, c) for c in (None, config)]
    assert values[0] == values[1]
