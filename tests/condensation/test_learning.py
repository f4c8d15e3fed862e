"""The loop that all learned sets share: resuming, skipped steps, what checkpoints agree with."""

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import save_file

from effdl_nb.checkpoints import read_tensors, write_tensors
from effdl_nb.condensation.learning import (
    Learned,
    NonFiniteSteps,
    Run,
    curve,
    facts,
    learn,
    run_mark,
    skip_step,
    take_step,
)


def fresh(**options):
    return Learned({"x": torch.zeros(1)}, {"x": 0.1}, **{"max_skipped": 3, "seed": 5, **options})


def step(state):
    return take_step(state, 1.0, {"x": torch.ones(1)})


def test_extra_tensors_survive(tmp_path):
    def iterate(state):
        drawn = torch.rand(1, generator=state.generator)
        state.extra = {"sum": state.extra.get("sum", torch.zeros(1)) + drawn}
        if state.iteration == 4 and not path.with_suffix(".went").exists():
            path.with_suffix(".went").touch()
            raise KeyboardInterrupt
        return step(state)

    def done(state):
        kept = path.exists() or state is straight
        assert kept, "the checkpoint goes only when the result is made"

    def run(state, **how):
        learn(state, 6, iterate, done, "m", Run(progress=False, **how), "t")

    path = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(fresh(), checkpoint=path, checkpoint_every=2)
    resumed, straight = fresh(), fresh()
    run(resumed, checkpoint=path)
    run(straight)
    assert torch.equal(resumed.extra["sum"], straight.extra["sum"])
    assert torch.equal(resumed["x"], straight["x"])


def test_notes_skipped_steps_and_losses_survive(tmp_path):
    def iterate(state):
        state.notes.setdefault("seen", []).append(state.iteration)
        return skip_step(state) if state.iteration % 2 else step(state)

    def kill(iteration, state):
        if iteration == 5:
            raise KeyboardInterrupt

    path, straight, resumed = tmp_path / "a.safetensors", fresh(), fresh()
    for state, run in (
        (straight, Run(progress=False)),
        (fresh(), Run(progress=False, checkpoint=path, checkpoint_every=2, on_iteration=kill)),
        (resumed, Run(progress=False, checkpoint=path)),
    ):
        try:
            learn(state, 8, iterate, lambda s: None, "m", run, "t")
        except KeyboardInterrupt:
            assert state.iteration == 5
    assert resumed.notes == straight.notes == {"seen": list(range(8))}
    assert resumed.skipped == straight.skipped == 4
    assert curve(resumed.losses) == curve(straight.losses)
    assert curve(resumed.losses)["loss"] == [1.0, None] * 4


def test_a_wrong_interval_between_saves_is_told_before_anything_runs():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Run(checkpoint_every=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("loss", "gradient"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, -math.inf)]
)
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(optimizer, loss, gradient):
    state = fresh(optimizer=optimizer)
    assert step(state) == 1.0
    before = state["x"].detach().clone()
    assert math.isnan(take_step(state, loss, {"x": torch.full((1,), gradient)}))
    assert torch.equal(state["x"], before) and (state.skipped, state.skipped_in_a_row) == (1, 1)
    assert step(state) == 1.0 and not torch.equal(state["x"], before)
    assert (state.skipped, state.skipped_in_a_row) == (1, 0)


def test_too_many_skipped_steps_in_a_row_are_an_error():
    state = fresh()
    for _ in range(4):  # one good step in three is enough
        skip_step(state)
        skip_step(state)
        step(state)
    skip_step(state)
    skip_step(state)
    with pytest.raises(NonFiniteSteps, match="3 steps in a row were not finite"):
        skip_step(state)


def test_each_tensor_has_its_own_learning_rate_and_all_are_scaled():
    tensors = {"a": torch.zeros(1), "b": torch.zeros(1)}
    state = Learned(tensors, {"a": 1.0, "b": 0.1}, "sgd")
    take_step(state, 1.0, {"a": torch.ones(1), "b": torch.ones(1)}, scale=0.5)
    assert (state["a"].item(), state["b"].item()) == pytest.approx((-0.5, -0.05))
    assert tensors["a"].item() == 0  # the caller's own tensors are left alone


@dataclass(frozen=True)
class Settings:
    size: int = 1
    steps: tuple = (1, 2)


@dataclass(frozen=True)
class OtherSettings(Settings):
    pass


def test_a_checkpoint_agrees_with_settings_images_and_choice():
    images, index = torch.ones(4, 3, 2, 2), [0, 2]
    mark = run_mark(Settings(), images, index)
    assert mark == run_mark(Settings(), images.clone(), list(index))
    others = {
        run_mark(Settings(2), images, index),
        run_mark(OtherSettings(), images, index),
        run_mark(replace(Settings(), steps=(1, 3)), images, index),
        run_mark(Settings(), 2 * images, index),
        run_mark(Settings(), images[:3], index),
        run_mark(Settings(), images, [0, 1]),
        run_mark(Settings(), images, index, "more"),
    }
    assert len(others) == 7 and mark not in others


def test_a_checkpoint_without_a_mark_is_of_another_run(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.zeros(1)}, {}, "checkpoint of a condensation")
    run = Run(progress=False, checkpoint=path)
    with pytest.raises(ValueError, match="other settings"):
        learn(fresh(), 2, step, lambda s: None, "m", run, "t")


def test_a_checkpoint_that_is_older_than_seals_is_resumed(tmp_path):
    run = Run(progress=False, checkpoint=tmp_path / "new.safetensors", checkpoint_every=1)
    learn(fresh(), 2, step, lambda s: None, "m", run, "t")
    tensors, header = read_tensors(run.checkpoint, "checkpoint of a condensation")
    save_file(tensors, tmp_path / "old.safetensors", {"learned": json.dumps(header)})
    older = replace(run, checkpoint=tmp_path / "old.safetensors")
    both = [learn(fresh(), 3, step, lambda s: s["x"].clone(), "m", r, "t") for r in (run, older)]
    assert torch.equal(*both)


@pytest.mark.parametrize(("count", "every"), [(0, 1), (1, 1), (200, 1), (201, 2), (1000, 5)])
def test_a_curve_has_at_most_200_points(count, every):
    thin = curve([float(i) for i in range(count)])
    assert thin["every"] == every and len(thin["loss"]) <= 200
    assert thin["loss"] == [float(i) for i in range(0, count, every)]


def test_what_is_kept_with_a_set():
    state = fresh()
    state.losses = [1.0, math.nan]
    kept = facts(state, Settings(), Run(details={"dataset": "toy"}))
    assert kept == {
        "dataset": "toy",
        "settings": {"size": 1, "steps": (1, 2)},
        "curve": {"every": 1, "loss": [1.0, None]},
        "skipped": 0,
    }
