"""The rows of Table 4.1 at a tiny size: sharing, resuming, determinism, misuse."""
from dataclasses import replace

import pytest
import torch

from effdl_nb.condensation import experiments as module
from effdl_nb.condensation.experiments import ROWS, CondensationSettings, condensation_accuracy, condensed_set
from effdl_nb.condensation.images import ZCAWhitening

TINY = CondensationSettings(dataset="cifar10-sample", train_size=100, test_size=50, zca=False, width=4, experts=2, expert_epochs=3, expert_lr=0.05,
                            expert_batch=50, iterations=4, student_steps=2, expert_steps=1, first_start=1, max_start=1, image_optimizer="adam",
                            image_lr=0.03, rate=0.05, rate_lr=0.03, memory="full", eval_runs=2, eval_epochs=4, eval_rate=0.02)


@pytest.mark.parametrize("row", ROWS)
def test_rows_are_deterministic_wherever_they_are_made(row, tmp_path):
    a, b = (condensation_accuracy(row, TINY, 3, tmp_path / w, progress=False) for w in "ab")
    assert a == b and len(a["accuracy"]) == TINY.eval_runs and all(0 <= v <= 100 for v in a["accuracy"])


def test_experts_are_shared_and_finished_work_is_not_repeated(tmp_path, monkeypatch):
    first = condensation_accuracy("mtt", TINY, 0, tmp_path, progress=False)
    trained = []
    monkeypatch.setattr(module, "condense_trajectory", lambda *a, **k: trained.append(1))
    assert condensation_accuracy("mtt", TINY, 0, tmp_path, progress=False) == first and not trained
    monkeypatch.undo()
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")}
    condensation_accuracy("iatm", TINY, 1, tmp_path, progress=False)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")} == stamps and len(stamps) == 2


def test_evaluation_settings_do_not_condense_again(tmp_path):
    condensation_accuracy("mtt", TINY, 0, tmp_path, progress=False)
    condensation_accuracy("mtt", replace(TINY, eval_epochs=5), 0, tmp_path, progress=False)
    assert len(list(tmp_path.glob("mtt-*.safetensors"))) == 1


def test_settings_that_shape_the_set_make_another_one(tmp_path):
    for s in (TINY, replace(TINY, iterations=5)):
        condensed_set("mtt", s, 0, tmp_path, progress=False)
    condensed_set("mtt", TINY, 1, tmp_path, progress=False)
    assert len(list(tmp_path.glob("mtt-*.safetensors"))) == 3 and len(list(tmp_path.glob("experts-*"))) == 1


def test_a_killed_condensation_goes_on(tmp_path, monkeypatch):
    straight = condensed_set("iatm", TINY, 0, tmp_path / "s", progress=False)
    real = module.condense_trajectory

    def cut(*args, **kw):
        def stop(iteration, *_):
            if iteration == 3:
                raise KeyboardInterrupt
        return real(*args, **kw, checkpoint_every=1, on_iteration=stop)

    with monkeypatch.context() as m:
        m.setattr(module, "condense_trajectory", cut)
        with pytest.raises(KeyboardInterrupt):
            condensed_set("iatm", TINY, 0, tmp_path / "k", progress=False)
    assert len(list((tmp_path / "k").glob("iatm-*.part.safetensors"))) == 1
    resumed = condensed_set("iatm", TINY, 0, tmp_path / "k", progress=False)
    assert torch.equal(resumed.images, straight.images) and resumed.rate == straight.rate
    assert not list((tmp_path / "k").glob("*.part.safetensors"))


def test_zca_is_fitted_once(tmp_path, monkeypatch):
    s = replace(TINY, zca=True)
    calls = []
    trivial = ZCAWhitening(torch.full((3072,), 0.5), torch.ones(3072), torch.eye(3072))  # a real fit takes seconds
    monkeypatch.setattr(module, "fit_zca", lambda images: calls.append(1) or trivial)
    for seed in (0, 1):
        assert condensation_accuracy("random", s, seed, tmp_path, progress=False)["accuracy"]
    assert len(calls) == 1


@pytest.mark.parametrize("wrong", [{"dataset": "svhn"}, {"reading": "x"}, {"experts": 0}, {"max_start": 9}, {"rate": 0.0}, {"ipc": 0},
                                   {"precision": "fp8"}, {"protocol": "best"}, {"memory": "disk"}, {"first_start": 5}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        replace(TINY, **wrong)


def test_unknown_row_and_too_many_images_per_class(tmp_path):
    with pytest.raises(ValueError, match="random, mtt, iatm"):
        condensation_accuracy("cafe", TINY, 0, tmp_path)
    with pytest.raises(ValueError, match="class 0 has 10 images"):
        condensed_set("random", replace(TINY, ipc=11), 0, tmp_path, progress=False)


def test_defaults_are_the_theses_protocol():
    s = CondensationSettings()
    assert (s.student_steps, s.expert_steps, s.min_start, s.max_start, s.image_lr) == (80, 2, 0, 4, 100.0)
    assert (s.experts, s.eval_runs, s.eval_epochs, s.zca) == (100, 4, 1000, True)
