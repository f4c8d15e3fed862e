"""DD and LD: what is learned, failure cases, resuming."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from resuming import check_resuming

from effdl_nb.condensation import distillation as module
from effdl_nb.condensation.coresets import RandomConfig, random_coreset
from effdl_nb.condensation.distillation import (
    DistillationConfig,
    condense_distillation,
    replay,
    step_indices,
)
from effdl_nb.condensation.learning import NonFiniteSteps, Run
from effdl_nb.condensation.sets import CondensedSet
from effdl_nb.networks import build
from effdl_nb.settings import resolve

DD = DistillationConfig(
    "dd",
    network="convnet-2",
    width=4,
    iterations=4,
    steps=2,
    epochs=2,
    batch_real=8,
    image_lr=0.05,
    lr_lr=0.05,
)
LD = DistillationConfig(
    "ld", network="convnet-2", width=4, iterations=5, reset_every=3, batch_real=8, label_lr=0.05
)
CONFIGS = {"dd": DD, "ld": LD}


def condense(real, config, **run):
    return condense_distillation(real, config, Run(progress=False, **run))


@pytest.mark.parametrize("ipc", [1, 2, 5, 7])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_every_image_is_used_and_classes_are_balanced(ipc, steps):
    indices = step_indices(3, ipc, steps)
    assert len(indices) == steps and set(torch.cat(indices).tolist()) == set(range(3 * ipc))
    for i in indices:
        assert len(set(torch.bincount(i // ipc, minlength=3).tolist())) == 1


def test_dd_learns_images_and_learning_rates(real):
    a, b = condense(real, DD), condense(real, DD)
    assert torch.equal(a.images, b.images) and a.details == b.details
    assert (
        len(a.details["lrs"]) == 4
        and len(set(a.details["lrs"])) == 4
        and all(v > 0 for v in a.details["lrs"])
    )
    assert a.lr is None and a.labels.tolist() == [0, 1, 2]
    still = condense(real, replace(DD, image_lr=0.0, lr_lr=0.0))
    assert still.details["lrs"] == [0.02] * 4 and not torch.equal(still.images, a.images)


def test_ld_learns_labels_of_real_images(real):
    made = condense(real, replace(LD, ipc=2))
    assert torch.equal(made.images, real.images[made.details["index"]]) and made.labels.shape == (
        6,
        3,
    )
    torch.testing.assert_close(made.labels.sum(1), torch.ones(6))
    assert (made.labels >= 0).all() and (made.labels - 1 / 3).abs().max() > 0.05
    still = condense(real, replace(LD, ipc=2, label_lr=0.0))
    torch.testing.assert_close(still.labels, torch.full((6, 3), 1 / 3))  # they begin uniform


def test_lds_network_goes_on_by_adam_on_the_labels_as_they_were(real, monkeypatch):
    seen, own = [], module.distillation_loss

    def spy(model, start, images, labels, *rest):
        seen.append(
            (model, {k: v.clone() for k, v in start.items()}, images, labels.detach().clone())
        )
        return own(model, start, images, labels, *rest)

    monkeypatch.setattr(module, "distillation_loss", spy)
    condense(real, LD)  # reset_every = 3: steps 0, 1, 2 are one network's
    model, start, images, _ = seen[0]
    own_model = build("convnet-2", 3, width=4, norm="instance", image_size=8)
    own_model.load_state_dict(start)
    adam = torch.optim.Adam(own_model.parameters(), lr=LD.net_lr)
    for step in (0, 1):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(own_model(images), seen[step][3]).backward()
        adam.step()
        for name, p in own_model.named_parameters():
            torch.testing.assert_close(p.detach(), seen[step + 1][1][name])


def test_dd_halves_its_learning_rates(real):
    def last(**changed):
        return condense(real, replace(DD, iterations=3, **changed)).images

    assert torch.equal(last(milestones=(3,)), last(milestones=())) and not torch.equal(
        last(milestones=(2,)), last(milestones=())
    )
    assert resolve(DD).betas == (0.5, 0.999) and resolve(LD).betas == (0.9, 0.999)
    published = resolve(DistillationConfig("dd"))
    assert len(published.milestones) == 9 and published.milestones[0] * 10 == published.iterations


def test_memory_modes_agree(real):
    # adaptive steps turn rounding into motion where a gradient is nearly zero, hence the tolerance
    a, b = (condense(real, replace(DD, memory=m, iterations=2)) for m in ("full", "adjoint"))
    assert (a.images - b.images).abs().mean() < 1e-3
    torch.testing.assert_close(
        torch.tensor(a.details["lrs"]), torch.tensor(b.details["lrs"]), rtol=1e-3, atol=0
    )


def test_fixed_start_is_one_network(real, monkeypatch):
    seen, own = [], module.distillation_loss

    def spy(model, start, *rest):
        seen.append(next(iter(start.values())).clone())
        return own(model, start, *rest)

    monkeypatch.setattr(module, "distillation_loss", spy)
    condense(real, replace(DD, start="fixed"))
    assert all(torch.equal(seen[0], s) for s in seen)
    seen.clear()
    condense(real, DD)
    assert not torch.equal(seen[0], seen[1])
    seen.clear()
    condense(real, LD)  # one network lives for three iterations
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[2], seen[3])


def test_replay_takes_the_learned_steps(real):
    made = condense(real, DD)
    model, other = (
        build("convnet-2", 3, width=4, image_size=8),
        build("convnet-2", 3, width=4, image_size=8),
    )
    other.load_state_dict(model.state_dict())
    replay(made, model)
    for lr in made.details["lrs"]:
        loss = torch.nn.functional.cross_entropy(other(made.images), made.labels)
        for p, g in zip(
            other.parameters(), torch.autograd.grad(loss, list(other.parameters())), strict=True
        ):
            p.data -= lr * g
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    with pytest.raises(ValueError, match="allowed: 'dd'"):
        replay(random_coreset(real, RandomConfig()), model)


@pytest.mark.parametrize("method", CONFIGS)
def test_resume_equals_uninterrupted(real, tmp_path, method):
    config = CONFIGS[method]
    check_resuming(partial(condense, real), config, replace(config, seed=1), tmp_path)


@pytest.mark.parametrize("method", CONFIGS)
def test_a_nan_step_is_skipped_and_the_rest_is_used(real, monkeypatch, method):
    calls, own = [], module.distillation_loss

    def sometimes(*args):
        calls.append(1)
        return own(*args) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(module, "distillation_loss", sometimes)
    made = condense(real, CONFIGS[method])
    curve = made.details["curve"]["loss"]
    assert (
        made.details["skipped"] == 1
        and curve[1] is None
        and None not in curve[2:]
        and torch.isfinite(made.images).all()
    )


def test_divergence_is_an_error(real):
    with pytest.raises(NonFiniteSteps, match="in a row"):
        condense(real, replace(DD, image_lr=1e30, iterations=20, max_skipped=3))


@pytest.mark.parametrize("method", CONFIGS)
def test_too_few_images_and_one_class(real, method):
    many = condense(real, replace(CONFIGS[method], ipc=11, init=None))
    assert len(many) == (33 if method == "dd" else 30)  # DD begins with noise
    one = replace(real, labels=torch.zeros_like(real.labels), classes=("only",))
    made = condense(one, CONFIGS[method])
    assert (
        len(made) == 1
        and torch.isfinite(made.images).all()
        and torch.isfinite(made.labels.float()).all()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "dc"},
        {"memory": "disk"},
        {"method": "ld", "init": "noise"},
        {"inner_lr": 0.0},
        {"inner_lr": math.nan},
        {"start": "warm"},
        {"steps": 0},
        {"reset_every": 2},
        {"image_lr": math.inf},
        {"strategy": "zoom"},
        {"betas": (0.9, 1.0)},
        {"betas": (0.9,)},
        {"milestones": ("a",)},
        {"milestones": (-1,)},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        replace(DD, **wrong)


def test_soft_labels_survive_the_file(real, tmp_path):
    made = condense(real, LD)
    made.save(tmp_path / "set.safetensors")
    assert torch.equal(CondensedSet.load(tmp_path / "set.safetensors").labels, made.labels)
