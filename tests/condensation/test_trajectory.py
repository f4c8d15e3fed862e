"""Trajectory matching: failure cases, golden values, resuming."""

import math
from dataclasses import fields, replace

import pytest
import torch

from effdl_nb.condensation import iatm, memory
from effdl_nb.condensation import trajectory as module
from effdl_nb.condensation.experts import train_experts
from effdl_nb.condensation.iatm import READINGS
from effdl_nb.condensation.initial import random_per_class
from effdl_nb.condensation.learning import NonFiniteSteps, Run
from effdl_nb.condensation.trajectory import (
    ExpertPlan,
    IATMConfig,
    MTTConfig,
    condense_trajectory,
    condense_with_experts,
    expert_config,
    largest_start,
    shared_experts,
)

CONFIG = IATMConfig(
    network="convnet-2",
    width=4,
    iterations=6,
    student_steps=2,
    expert_steps=1,
    first_start=1,
    max_start=1,
    image_optimizer="adam",
    image_lr=0.05,
    student_lr=0.05,
    lr_lr=0.05,
    statistics_images=8,
)


def as_mtt(config: IATMConfig) -> MTTConfig:
    "The settings of MTT that differ in the loss alone."
    return MTTConfig(**{f.name: getattr(config, f.name) for f in fields(MTTConfig)})


CONFIGS = {"mtt": as_mtt, "iatm": lambda config: config}
MTT = as_mtt(CONFIG)


def condense(experts, real, config=CONFIG, **run):
    return condense_trajectory(experts, real, config, Run(progress=False, **run))


@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_runs_and_is_deterministic(experts, real, reading):
    a, b = (condense(experts, real, replace(CONFIG, reading=reading)) for _ in range(2))
    assert torch.equal(a.images, b.images) and a.lr == b.lr and a.details == b.details
    ranks = a.details["ranks"]
    assert ranks and all(k >= 1 for row in ranks.values() for k in row)


def test_mtt_and_iatm_start_from_the_same_images_and_differ(experts, real):
    still = replace(CONFIG, image_lr=0.0)
    a, b = condense(experts, real, as_mtt(still)), condense(experts, real, still)
    assert torch.equal(a.images, b.images) and (a.method, b.method) == ("mtt", "iatm")
    a, b = condense(experts, real, MTT), condense(experts, real)
    assert not torch.equal(a.images, b.images)


def test_mini_batches_of_the_synthetic_set(experts, real):
    made = condense(experts, real, replace(CONFIG, ipc=3, student_batch=4, student_steps=5))
    assert len(made) == 9 and made.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("method", CONFIGS)
def test_resume_equals_uninterrupted(experts, real, tmp_path, optimizer, method):
    class Stop(Exception):
        pass

    def stop(iteration, *_):
        if iteration == 4:
            raise Stop

    config = CONFIGS[method](replace(CONFIG, image_optimizer=optimizer))
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stop):
        condense(experts, real, config, checkpoint=path, checkpoint_every=3, on_iteration=stop)
    assert path.exists()
    resumed = condense(experts, real, config, checkpoint=path)
    straight = condense(experts, real, config)
    assert torch.equal(resumed.images, straight.images) and resumed.lr == straight.lr
    assert resumed.details == straight.details


def test_checkpoints_that_do_not_fit(experts, real, tmp_path):
    path = tmp_path / "state.safetensors"

    def stop(iteration, *_):
        if iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condense(experts, real, checkpoint=path, checkpoint_every=1, on_iteration=stop)
    with pytest.raises(ValueError, match="other settings"):
        condense(experts, real, replace(CONFIG, seed=1), checkpoint=path)
    with pytest.raises(ValueError, match="other settings"):  # of MTT, with the same numbers
        condense(experts, real, MTT, checkpoint=path)
    with pytest.raises(ValueError, match="other settings or images"):
        condense(experts, replace(real, images=3 * real.images + 7), checkpoint=path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        condense(experts, real, checkpoint=path)


def test_experts_of_other_classes(experts, real):
    with pytest.raises(ValueError, match=r"know 3 classes, not 2 \(a, b\)"):
        condense(experts, replace(real, classes=("a", "b")))


def test_ranks_are_kept_by_the_share_reached(experts, real):
    config = replace(CONFIG, reading="svd", opening="iterations", horizon="T", iterations=81)
    made = condense(experts, real, config)
    # energy_fraction = 2 i / 81: 0, 0.02, ..., the first of each tenth
    ranks = made.details["ranks"]
    assert list(ranks) == [f"{i / 10:.1f}" for i in range(11)] and ranks["1.0"] == [4, 4, 3]
    assert all(
        a <= b
        for x, y in zip([*ranks.values()][:-2], [*ranks.values()][1:], strict=False)
        for a, b in zip(x, y, strict=True)
    )


def test_what_an_iteration_drew_is_told(experts, real):
    drawn = []
    condense(experts, real, on_iteration=lambda i, state: drawn.append((i, dict(state.drawn))))
    assert [i for i, _ in drawn] == [1, 2, 3, 4, 5, 6]
    assert all(set(d) == {"epoch", "expert", "fraction", "ranks"} for _, d in drawn)
    assert {d["epoch"] for _, d in drawn} <= {0, 1} and {d["expert"] for _, d in drawn} <= {0, 1}


def test_a_nan_step_is_skipped_and_the_rest_is_used(experts, real, monkeypatch):
    healthy, calls = iatm.mtt_loss, []

    def sometimes(*args):
        calls.append(1)
        return healthy(*args) * (math.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(iatm, "mtt_loss", sometimes)
    made = condense(experts, real, MTT)
    assert made.details["skipped"] == 1 and made.details["curve"]["loss"][2] is None
    assert torch.isfinite(made.images).all()


def test_divergence_is_an_error(experts, real):
    hot = replace(CONFIG, image_optimizer="sgd", image_lr=1e30, iterations=50, max_skipped=3)
    with pytest.raises(NonFiniteSteps, match="in a row"):
        condense(experts, real, hot)


@pytest.mark.parametrize("push", [-1, 1])
def test_the_learning_rate_stays_positive_and_bounded(experts, real, monkeypatch, push):
    def pushed(end, *_):
        return push * 1e3 * sum(v.square().sum() for v in end.values())

    monkeypatch.setattr(iatm, "mtt_loss", pushed)
    with pytest.warns(UserWarning, match="ran to the bound"):
        made = condense(experts, real, replace(MTT, image_lr=0.0, lr_lr=100.0, iterations=3))
    assert made.details["lr_at_bound"] == [module.LR_BOUNDS[push < 0]]
    assert module.LR_BOUNDS[0] * 0.999 <= made.lr <= module.LR_BOUNDS[1] * 1.001


def test_a_class_gives_what_it_has(experts, real):
    assert len(condense(experts, real, replace(CONFIG, ipc=11, iterations=1))) == 30


def test_one_class(tmp_path, experts, real):
    one = replace(real, labels=torch.zeros_like(real.labels), classes=("only",))
    made = train_experts(tmp_path, one.images, one.labels, 1, 1, experts.config, progress=False)
    # with a single class the loss is constant: experts and students do not move, and every step is
    # harmless
    made = condense(made, one)
    assert len(made) == 1 and torch.isfinite(made.images).all()


def test_epochs_that_the_experts_lack(experts, real):
    with pytest.raises(ValueError, match="the experts have 0..2"):
        condense(experts, real, replace(CONFIG, first_start=2, max_start=2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory": "tiny"}, "'tiny' is unknown; allowed: full, adjoint, tesla, auto"),
        ({"memory": "full", "compiled": True}, "not 'full'"),
        ({"opening": "late"}, "opening 'late' is unknown"),
        ({"horizon": "T-"}, "horizon 'T-' is unknown"),
        ({"reading": "best"}, "reading 'best' is unknown; allowed: rank"),
        ({"ipc": 0}, "ipc must be at least 1, not 0"),
        ({"student_lr": -1.0}, "student_lr must lie in"),
        ({"student_lr": math.nan}, "student_lr must lie in"),
        ({"min_start": 3}, "min_start <= first_start"),
        ({"image_optimizer": "lion"}, "allowed: sgd, adam"),
        ({"image_lr": math.nan}, "image_lr must be a finite number"),
        ({"lr_lr": -1.0}, "lr_lr must be a finite number"),
        ({"statistics_images": 0}, "statistics_images must be at least 1"),
        ({"experts": ExpertPlan(epochs=1)}, "must be at most experts.epochs = 1, not 2"),
    ],
)
def test_wrong_settings(wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **wrong)


def test_a_method_is_its_class():
    for config in (CONFIG, MTT):
        with pytest.raises(TypeError, match="method"):
            replace(config, method="dm")
    with pytest.raises(TypeError, match="reading"):
        replace(MTT, reading="rank")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": math.nan}, "lr must be a finite number"),
        ({"precision": "fp8"}, "precision 'fp8' is unknown; allowed: fp32, bf16"),
    ],
)
def test_wrong_experts(wrong, words):
    with pytest.raises(ValueError, match=words):
        ExpertPlan(**wrong)


def test_golden_first_step(experts, real):
    # one SGD step on the pixels: images move by minus the learning rate times the gradient that
    # _matching_loss gives
    config = replace(MTT, image_optimizer="sgd", image_lr=0.5, iterations=1)
    made = condense(experts, real, config)
    index = random_per_class(real.labels, 3, 1, torch.Generator().manual_seed(0))
    problem = module._Problem(experts, real, config, torch.device("cpu"))
    state, lr = module._learned(real.images[index], config), torch.tensor(config.student_lr)
    loss, _ = module._matching_loss(problem, None, state, real.labels[index], lr)
    gradient = torch.autograd.grad(loss, state["images"])[0]
    torch.testing.assert_close(made.images, (state["images"] - 0.5 * gradient).detach())


def test_opening_overrides_the_reading(experts, real):
    late = condense(experts, real, replace(CONFIG, opening="iterations"))
    # 2 j / J for j = 0, 1, 2 of 6, then open
    assert set(late.details["ranks"]) == {"0.0", "0.3", "0.6", "1.0"}


def test_all_components_open_is_mtt_image_by_image(experts, real):
    # the last start epoch is T+: with start epochs 1..1 only, f = 1 throughout
    config = replace(CONFIG, min_start=1)
    a, b = (condense(experts, real, make(config)) for make in CONFIGS.values())
    assert torch.equal(a.images, b.images) and a.lr == b.lr
    assert b.details["ranks"] == {"1.0": [4, 4, 3]}


def test_the_literal_reading_with_all_components_open(experts, real):
    # t = 1 is at the horizon, where all components are open
    literal = replace(CONFIG, reading="literal", horizon="T+", min_start=1)
    assert set(condense(experts, real, literal).details["ranks"]) == {"1.0"}


@pytest.mark.parametrize("mode", ["adjoint", "auto"])
def test_memory_modes_lead_to_the_same_images(experts, real, mode):
    config = replace(MTT, image_optimizer="sgd", image_lr=1.0)
    a, b = (condense(experts, real, replace(config, memory=m)) for m in ("full", mode))
    torch.testing.assert_close(a.images, b.images, rtol=1e-4, atol=1e-5)


def test_too_little_memory_is_an_error_before_the_run(experts, real, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match="needs about .* MB are free"):
        condense(experts, real, on_iteration=lambda *_: pytest.fail("an iteration was run"))


def test_analysed_layers_are_dropped_when_they_take_too_much(experts, real, monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    problem = module._Problem(experts, real, CONFIG, torch.device("cpu"))
    importance = module._Importance(problem, real.images[:8])
    for epoch in (1, 2, 1):
        importance.analysed(0, epoch, experts.parameters(0, epoch))
    assert list(importance.layers) == [(0, 1)]
    assert importance.held == module._bytes(importance.layers[0, 1])


def test_the_largest_start_epoch_grows_by_one_each_interval():
    config = replace(CONFIG, first_start=1, max_start=3, interval=10)
    starts = [largest_start(config, i) for i in (0, 9, 10, 19, 20, 1000)]
    assert starts == [1, 1, 2, 2, 3, 3]


PLAN = replace(CONFIG, experts=ExpertPlan(count=2, epochs=3, batch_size=15))


def test_experts_are_trained_as_far_as_they_are_matched():
    late = replace(PLAN, min_start=1)
    trained = expert_config(late)
    assert (trained.first, trained.epochs, trained.batch_size) == (1, 2, 15)
    assert (trained.network, trained.width, trained.half) == ("convnet-2", 4, True)


def test_both_methods_share_experts_and_other_settings_get_their_own(real, tmp_path):
    quiet = Run(progress=False)
    first = shared_experts(real, as_mtt(PLAN), tmp_path, quiet)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")}
    again = shared_experts(real, replace(PLAN, seed=1, ipc=2, iterations=9), tmp_path, quiet)
    assert again.folder == first.folder and len(stamps) == len(first) == 2
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")} == stamps
    other = replace(real, origin={"dataset": "another"})
    for images, config in ((real, replace(PLAN, width=6)), (other, PLAN)):
        assert shared_experts(images, config, tmp_path, quiet).folder != first.folder


def test_experts_of_one_run_are_gone_with_it(real, tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    made = condense_with_experts(real, PLAN, Run(progress=False))
    assert not list((tmp_path / "temporary").iterdir())
    kept = condense_with_experts(real, PLAN, Run(progress=False, experts=tmp_path / "kept"))
    assert torch.equal(made.images, kept.images)
    assert len(list(tmp_path.glob("kept/experts-*/expert_*.safetensors"))) == 2
