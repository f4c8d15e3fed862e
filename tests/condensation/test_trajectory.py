"""Trajectory matching: failure cases, golden values, resuming."""

import math
from dataclasses import replace

import pytest
import torch

from effdl_nb.condensation import trajectory as module
from effdl_nb.condensation.experts import ExpertConfig, train_experts
from effdl_nb.condensation.images import ChannelWhitening
from effdl_nb.condensation.learning import NonFiniteSteps
from effdl_nb.condensation.trajectory import (
    READINGS,
    TrajectoryConfig,
    analyse_layers,
    condense_trajectory,
    energy_fraction,
    iatm_loss,
    mtt_loss,
    real_images,
)

W = ChannelWhitening((0.5,) * 3, (0.25,) * 3)
CONFIG = TrajectoryConfig(
    iterations=6,
    student_steps=2,
    expert_steps=1,
    first_start=1,
    max_start=1,
    image_optimizer="adam",
    image_lr=0.05,
    rate=0.05,
    rate_lr=0.05,
    statistics_images=8,
)


@pytest.fixture(scope="module")
def real():
    gen = torch.Generator().manual_seed(0)
    return torch.randn(30, 3, 8, 8, generator=gen), torch.arange(30) % 3


@pytest.fixture(scope="module")
def experts(real, tmp_path_factory):
    config = ExpertConfig(network="convnet-2", width=4, epochs=2, lr=0.05, batch_size=10)
    return train_experts(tmp_path_factory.mktemp("experts"), *real, 3, 2, config, progress=False)


def condense(experts, real, config=CONFIG, classes=("a", "b", "c"), **kw):
    return condense_trajectory(
        experts, *real, config, classes=classes, whitening=W, progress=False, **kw
    )


def analysed(experts, real, gram=True):
    model = module.build("convnet-2", 3, width=4, image_size=8)
    target = experts.parameters(0, 2)
    return target, experts.parameters(0, 0), analyse_layers(model, target, real[0][:8], gram)


def test_full_rank_is_the_plain_loss(experts, real):
    target, start, layers = analysed(experts, real)
    end = {k: v + 0.01 for k, v in target.items()}
    for reading in ("rank", "schedule", "svd", "centred"):
        torch.testing.assert_close(
            iatm_loss(end, start, target, layers, 1.0, reading), mtt_loss(end, start, target)
        )
    assert [len(layer.components.sigma) for layer in layers] == [4, 4, 3]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_a_student_that_did_not_move_has_loss_one(experts, real, fraction):
    target, start, layers = analysed(experts, real)
    for reading in ("rank", "schedule", "soft", "svd", "centred", "whitened"):
        torch.testing.assert_close(
            iatm_loss(start, start, target, layers, fraction, reading).item(),
            1.0,
            rtol=1e-4,
            atol=0,
        )


def test_whitened_distance_is_the_distance_of_outputs(experts, real):
    target, start, layers = analysed(experts, real)
    layer = layers[0]
    D = layer.matrix(start) - layer.matrix(target)
    x = torch.nn.functional.unfold(real[0][:8], 3, padding=1).transpose(0, 1).flatten(1)
    X = torch.cat([x, torch.ones(1, x.shape[1])])
    torch.testing.assert_close(
        module._distance(layer, D, 99, True),
        (D @ X).square().sum() / X.shape[1],
        rtol=1e-4,
        atol=1e-6,
    )


def test_zero_denominators_stay_finite(experts, real):
    target, _, layers = analysed(experts, real)
    end = {k: v + 0.1 for k, v in target.items()}
    for reading in READINGS:
        assert torch.isfinite(iatm_loss(end, target, target, layers, 0.5, reading))
    zero = {"w": torch.zeros(3)}
    assert torch.isfinite(mtt_loss(zero, zero, zero))


def test_readings_that_need_the_gram_say_so(experts, real):
    target, start, layers = analysed(experts, real, gram=False)
    with pytest.raises(ValueError, match="gram=True"):
        iatm_loss(start, start, target, layers, 0.5, "whitened")
    with pytest.raises(ValueError, match="rank, schedule"):
        iatm_loss(start, start, target, layers, 0.5, "soft-ish")


def test_fraction_at_the_ends():
    assert energy_fraction("literal", 0, 4, 8) == 0 and energy_fraction("literal", 9, 4, 8) == 1
    assert (
        energy_fraction("schedule", 4, 4, 8) == 1 and energy_fraction("rank", 0, 4, 8, 99, 100) == 1
    )
    with pytest.raises(ValueError, match="allowed"):
        energy_fraction("best", 0, 4, 8)


@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_runs_and_is_deterministic(experts, real, reading):
    a, b = (condense(experts, real, replace(CONFIG, reading=reading)) for _ in range(2))
    assert torch.equal(a.images, b.images) and a.lr == b.lr and a.details == b.details
    assert a.details["ranks"] and all(
        k >= 1 for ranks in a.details["ranks"].values() for k in ranks
    )


def test_mtt_and_iatm_start_from_the_same_images_and_differ(experts, real):
    still = replace(CONFIG, image_lr=0.0)
    a, b = condense(experts, real, replace(still, method="mtt")), condense(experts, real, still)
    assert torch.equal(a.images, b.images)
    assert not torch.equal(
        condense(experts, real, replace(CONFIG, method="mtt")).images,
        condense(experts, real).images,
    )


def test_mini_batches_of_the_synthetic_set(experts, real):
    made = condense(experts, real, replace(CONFIG, ipc=3, batch_size=4, student_steps=5))
    assert len(made) == 9 and made.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("method", ["mtt", "iatm"])
def test_resume_equals_uninterrupted(experts, real, tmp_path, optimizer, method):
    class Stop(Exception):
        pass

    def stop(iteration, *_):
        if iteration == 4:
            raise Stop

    config = replace(CONFIG, image_optimizer=optimizer, method=method)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stop):
        condense(experts, real, config, checkpoint=path, checkpoint_every=3, on_iteration=stop)
    assert path.exists()
    resumed, straight = (
        condense(experts, real, config, checkpoint=path),
        condense(experts, real, config),
    )
    assert (
        torch.equal(resumed.images, straight.images)
        and resumed.lr == straight.lr
        and resumed.details == straight.details
    )


def test_checkpoints_that_do_not_fit(experts, real, tmp_path):
    path = tmp_path / "state.safetensors"

    def stop(iteration, *_):
        if iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condense(experts, real, checkpoint=path, checkpoint_every=1, on_iteration=stop)
    with pytest.raises(ValueError, match="other settings"):
        condense(experts, real, replace(CONFIG, seed=1), checkpoint=path)
    with pytest.raises(ValueError, match="other settings or images"):
        condense(experts, (3 * real[0] + 7, real[1]), checkpoint=path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        condense(experts, real, checkpoint=path)


def test_experts_of_other_classes(experts, real):
    with pytest.raises(ValueError, match=r"know 3 classes, not 2 \(a, b\)"):
        condense(experts, real, classes=("a", "b"))


def test_ranks_are_kept_by_the_share_reached(experts, real):
    made = condense(
        experts,
        real,
        replace(CONFIG, reading="svd", opening="iterations", horizon="T", iterations=81),
    )
    # energy_fraction = 2 i / 81: 0, 0.02, ..., the first of each tenth
    ranks = made.details["ranks"]
    assert list(ranks) == [f"{i / 10:.1f}" for i in range(11)] and ranks["1.0"] == [4, 4, 3]
    assert all(
        a <= b
        for x, y in zip([*ranks.values()][:-2], [*ranks.values()][1:], strict=False)
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize(
    "conv",
    [
        {"kernel_size": (3, 5), "padding": (1, 2)},
        {"kernel_size": 3, "stride": (1, 2), "padding": 1},
        {"kernel_size": (1, 3)},
    ],
)
def test_the_gram_sees_what_the_layer_sees(conv):
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 4, **conv)), torch.randn(5, 3, 8, 8)
    (layer,) = analyse_layers(model, dict(model.named_parameters()), x, gram=True)
    M, y = (
        layer.matrix(dict(model.named_parameters())).double(),
        model(x).detach().double().transpose(0, 1).flatten(1),
    )
    torch.testing.assert_close(M @ layer.gram @ M.T, y @ y.T / y.shape[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "conv",
    [
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"groups": 3},
        {"dilation": 2},
    ],
)
def test_layers_without_components_are_matched_plainly(conv):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, **conv), torch.nn.Conv2d(6, 2, 1))
    assert list(module.matched_modules(model)) == ["1"]


def test_a_nan_step_is_skipped_and_the_rest_is_used(experts, real, monkeypatch):
    healthy, calls = module.mtt_loss, []

    def sometimes(*args):
        calls.append(1)
        return healthy(*args) * (math.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(module, "mtt_loss", sometimes)
    made = condense(experts, real, replace(CONFIG, method="mtt"))
    assert (
        made.details["skipped"] == 1
        and made.details["curve"]["loss"][2] is None
        and torch.isfinite(made.images).all()
    )


def test_divergence_is_an_error(experts, real):
    with pytest.raises(NonFiniteSteps, match="in a row"):
        condense(
            experts,
            real,
            replace(CONFIG, image_optimizer="sgd", image_lr=1e30, iterations=50, max_skipped=3),
        )


@pytest.mark.parametrize("push", [-1, 1])
def test_the_rate_stays_positive_and_bounded(experts, real, monkeypatch, push):
    monkeypatch.setattr(
        module, "mtt_loss", lambda end, *_: push * 1e3 * sum(v.square().sum() for v in end.values())
    )
    made = condense(
        experts, real, replace(CONFIG, method="mtt", image_lr=0.0, rate_lr=100.0, iterations=3)
    )
    assert module.LR_BOUNDS[0] * 0.999 <= made.lr <= module.LR_BOUNDS[1] * 1.001


def test_too_few_images_in_a_class(experts, real):
    with pytest.raises(ValueError, match="class 0 has 10 images, fewer than the 11"):
        condense(experts, real, replace(CONFIG, ipc=11))
    with pytest.raises(ValueError, match="class 3 has 0 images"):
        real_images(real[1], 4, 1, torch.Generator())


def test_one_class(tmp_path, real):
    config = ExpertConfig(network="convnet-2", width=4, epochs=2, lr=0.05, batch_size=10)
    labels = torch.zeros_like(real[1])
    one = train_experts(tmp_path, real[0], labels, 1, 1, config, progress=False)
    # with a single class the loss is constant: experts and students do not move, and every step is harmless
    made = condense(one, (real[0], labels), classes=("only",))
    assert len(made) == 1 and torch.isfinite(made.images).all()


def test_epochs_that_the_experts_lack(experts, real):
    with pytest.raises(ValueError, match="the experts have 0..2"):
        condense(experts, real, replace(CONFIG, first_start=2, max_start=2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "dm"},
        {"memory": "tiny"},
        {"memory": "full", "compiled": True},
        {"opening": "late"},
        {"horizon": "T-"},
        {"ipc": 0},
        {"rate": -1.0},
        {"rate": math.nan},
        {"min_start": 3},
        {"image_optimizer": "lion"},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        replace(CONFIG, **wrong)


def test_golden_first_step(experts, real):
    # one SGD step on the pixels: images move by minus the learning rate times the gradient that _Matching gives
    config = replace(CONFIG, image_optimizer="sgd", image_lr=0.5, iterations=1, method="mtt")
    made = condense(experts, real, config)
    start = torch.Generator().manual_seed(0)
    index = real_images(real[1], 3, 1, start)
    problem = module._Matching(
        experts, real[0][torch.randperm(30, generator=start)[:8]], 3, config, torch.device("cpu")
    )
    images = real[0][index].clone().requires_grad_()
    loss, _ = problem.loss(
        images, real[1][index], torch.tensor(config.rate), 0, torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(
        made.images, (images - 0.5 * torch.autograd.grad(loss, images)[0]).detach()
    )


def test_soft_by_hand():
    # one layer [W | b], U = I, sigma^2 = (3, 1): shares 3/4 and 1/4, two components, so weights 1.5 and 0.5.
    # target 0, end rows (1, 0) and (0, 2): 1.5 * 1 + 0.5 * 4 = 3.5; start rows (2, 0) and (0, 0): 1.5 * 4 = 6
    found = module.Importance(torch.tensor([3.0, 1]).sqrt(), torch.eye(2))
    layer = module.LayerComponents("w", None, found, None)
    target, end, start = (
        {"w": torch.tensor(v)} for v in ([[0.0, 0], [0, 0]], [[1.0, 0], [0, 2]], [[2.0, 0], [0, 0]])
    )
    torch.testing.assert_close(iatm_loss(end, start, target, [layer], 0.0, "soft").item(), 3.5 / 6)
    dead = module.LayerComponents("w", None, module.Importance(torch.zeros(2), torch.eye(2)), None)
    torch.testing.assert_close(
        iatm_loss(end, start, target, [dead], 0.0, "soft"), mtt_loss(end, start, target)
    )


def test_plain_svd_ranks_without_data(experts, real):
    target = experts.parameters(0, 2)
    model = module.build("convnet-2", 3, width=4, image_size=8)
    a, b = (
        analyse_layers(model, target, x, components="weights")
        for x in (real[0][:8], torch.zeros(2, 3, 8, 8))
    )
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p.components.sigma, q.components.sigma)
        torch.testing.assert_close(
            p.components.sigma,
            torch.linalg.svdvals(p.matrix(target).double()),
            atol=1e-6,
            rtol=1e-5,
        )
    with pytest.raises(ValueError, match="outputs, centred, weights"):
        analyse_layers(model, target, real[0][:8], components="pixels")


def test_opening_and_horizon_override_the_reading(experts, real):
    assert energy_fraction("rank", 1, 4, 10, 30, 100, opening="epochs") == 0.25
    assert energy_fraction("rank", 1, 4, 10, 30, 100, opening="iterations") == 0.6
    assert energy_fraction("rank", 1, 4, 10, 0, 100, horizon="T") == 0.1
    assert energy_fraction("literal", 1, 4, 10, horizon="T+") == 0.25
    with pytest.raises(ValueError, match="epochs, iterations, both"):
        energy_fraction("rank", 0, 4, 8, opening="slowly")
    late = condense(experts, real, replace(CONFIG, opening="iterations"))
    # 2 j / J for j = 0, 1, 2 of 6, then open
    assert set(late.details["ranks"]) == {"0.0", "0.3", "0.6", "1.0"}


def test_all_components_open_is_mtt_image_by_image(experts, real):
    # the last start epoch is T+: with start epochs 1..1 only, f = 1 throughout
    config = replace(CONFIG, min_start=1)
    a, b = (condense(experts, real, replace(config, method=m)) for m in ("mtt", "iatm"))
    assert torch.equal(a.images, b.images) and a.lr == b.lr
    assert b.details["ranks"] == {"1.0": [4, 4, 3]}


def test_k_zero_and_t_beyond_the_horizon(experts, real):
    target, start, layers = analysed(experts, real)
    found = layers[0].components
    assert found.rank_at(0.0, "within", min_rank=0) == 0 and found.rank_at(0.0, "within") == 1
    assert torch.isfinite(iatm_loss(start, start, target, layers, 0.0, "literal"))
    # t = 1 is at T, where all components are open
    beyond = replace(CONFIG, reading="literal", expert_epochs=1)
    assert "1.0" in condense(experts, real, replace(beyond, min_start=1)).details["ranks"]


@pytest.mark.parametrize("memory", ["adjoint", "auto"])
def test_memory_modes_lead_to_the_same_images(experts, real, memory):
    config = replace(CONFIG, method="mtt", image_optimizer="sgd", image_lr=1.0)
    a, b = (condense(experts, real, replace(config, memory=m)) for m in ("full", memory))
    torch.testing.assert_close(a.images, b.images, rtol=1e-4, atol=1e-5)


def test_too_little_memory_is_an_error_before_the_run(experts, real, monkeypatch):
    from effdl_nb.condensation import unroll

    monkeypatch.setattr(unroll, "free_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match="needs about .* MB are free"):
        condense(experts, real, on_iteration=lambda *_: pytest.fail("an iteration was run"))


def test_analysed_layers_are_dropped_when_they_take_too_much(experts, real, monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    problem = module._Matching(experts, real[0][:8], 3, CONFIG, torch.device("cpu"))
    for epoch in (1, 2, 1):
        problem.analysed(0, epoch, experts.parameters(0, epoch))
    assert list(problem.layers) == [(0, 1)] and problem.held == module._bytes(problem.layers[0, 1])
