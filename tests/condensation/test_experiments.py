"""The rows of Tables 4.1 to 4.4 at a tiny size: sharing, resuming, determinism, misuse."""

from dataclasses import asdict, replace

import pytest
import torch

from effdl_nb.condensation import condensing, experiments
from effdl_nb.condensation.condensing import METHODS, TABLE_4_3
from effdl_nb.condensation.experiments import (
    TITLES,
    CondensationSettings,
    condensation_accuracy,
    condensed_set,
    images_of,
    method_of,
    method_options,
    schedule,
)
from effdl_nb.condensation.images import ZCAWhitening
from effdl_nb.study import load_tables, load_thesis

TRAJECTORY = {
    "experts": 2,
    "expert_epochs": 3,
    "expert_lr": 0.05,
    "expert_batch": 50,
    "iterations": 4,
    "student_steps": 2,
    "expert_steps": 1,
    "first_start": 1,
    "max_start": 1,
    "image_lr": 0.03,
    "rate": 0.05,
    "rate_lr": 0.03,
}
TINY = CondensationSettings(
    dataset="cifar10-sample",
    train_size=100,
    test_size=50,
    whitening="channel",
    width=4,
    preset="small",
    eval_runs=2,
    eval_epochs=4,
    eval_rate=0.02,
)
OPTIONS = {
    "mtt": TRAJECTORY,
    "iatm": TRAJECTORY,
    "kip": {"iterations": 2, "batch_real": 50},
    "herding": {"epochs": 1},
    "forgetting": {"epochs": 2},
}
OPTIONS |= {
    name: {"iterations": 2, "batch_real": 5} for name in ("dc", "dsa", "dm", "cafe", "cafe_dsa")
}
OPTIONS |= {
    "dd": {"iterations": 2, "batch_real": 20, "steps": 2},
    "ld": {"iterations": 2, "batch_real": 20, "steps": 2},
}


def tiny(row):
    return replace(TINY, options=OPTIONS.get(row, {}), eval_batch=50 if row == "full" else 256)


@pytest.mark.parametrize("row", TITLES)
def test_every_row_is_deterministic_wherever_it_is_made(row, tmp_path):
    a, b = (condensation_accuracy(row, tiny(row), 3, tmp_path / w, progress=False) for w in "ab")
    assert (
        a == b
        and len(a["accuracy"]) == TINY.eval_runs
        and all(0 <= v <= 100 for v in a["accuracy"])
    )


def test_rows_are_those_of_the_tables():
    tables = load_tables()
    for key in ("table_4_1", "table_4_2", "table_4_4"):
        assert set(tables[key].rows) <= set(TITLES), key
    assert set(METHODS) < set(tables["table_4_1"].rows)


def test_experts_are_shared_and_finished_work_is_not_repeated(tmp_path, monkeypatch):
    first = condensation_accuracy("mtt", tiny("mtt"), 0, tmp_path, progress=False)
    made = []
    monkeypatch.setattr(condensing, "condense_trajectory", lambda *a, **k: made.append(1))
    assert (
        condensation_accuracy("mtt", tiny("mtt"), 0, tmp_path, progress=False) == first and not made
    )
    monkeypatch.undo()
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")}
    for changed in ({}, {"reading": "soft"}, {"reading": "literal"}):
        condensation_accuracy(
            "variant", replace(tiny("iatm"), method="iatm", **changed), 1, tmp_path, progress=False
        )
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")} == stamps and len(
        stamps
    ) == 2
    assert len(list(tmp_path.glob("iatm-*.safetensors"))) == 3


def test_evaluation_settings_do_not_condense_again(tmp_path):
    for changed in (
        {},
        {"eval_epochs": 5},
        {"evaluation_network": "alexnet", "evaluation_width": 4},
    ):
        condensation_accuracy("mtt", replace(tiny("mtt"), **changed), 0, tmp_path, progress=False)
    assert len(list(tmp_path.glob("mtt-*.safetensors"))) == 1


def test_settings_that_shape_the_set_make_another_one(tmp_path):
    for options in (TRAJECTORY, {**TRAJECTORY, "iterations": 5}):
        condensed_set("mtt", replace(TINY, options=options), 0, tmp_path, progress=False)
    condensed_set("mtt", tiny("mtt"), 1, tmp_path, progress=False)
    assert (
        len(list(tmp_path.glob("mtt-*.safetensors"))) == 3
        and len(list(tmp_path.glob("experts-*"))) == 1
    )


def test_accuracy_on_the_way_is_that_of_a_shorter_run(tmp_path):
    "MTT's images after 2 of 4 iterations are those of a run of 2 (nothing in it depends on the number of iterations)."
    long = condensation_accuracy(
        "mtt", replace(tiny("mtt"), progress_at=(2, 4)), 0, tmp_path, progress=False
    )
    short = condensation_accuracy(
        "mtt", replace(TINY, options={**TRAJECTORY, "iterations": 2}), 0, tmp_path, progress=False
    )
    (two, *middle), (four, *end) = long["details"]["on_the_way"]
    assert (two, four) == (2, 4) and middle == short["accuracy"] and end == long["accuracy"]
    again = condensation_accuracy(
        "mtt", replace(tiny("mtt"), progress_at=(2, 4)), 0, tmp_path, progress=False
    )
    assert again == long  # the set is read, and so is what was found on the way


def test_a_set_that_another_row_made_is_looked_at_on_the_way_all_the_same(tmp_path):
    # 9 lies beyond the run: it is not waited for
    asked = replace(tiny("mtt"), progress_at=(2, 4, 9))
    straight = condensation_accuracy("mtt", asked, 0, tmp_path / "s", progress=False)
    first = condensation_accuracy(
        "variant", replace(tiny("mtt"), method="mtt"), 0, tmp_path / "k", progress=False
    )
    assert "on_the_way" not in first["details"]
    row = condensation_accuracy("mtt", asked, 0, tmp_path / "k", progress=False)
    assert [r[0] for r in row["details"]["on_the_way"]] == [2, 4] and row == straight
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "k").glob("[mp]*-*.*")}
    assert condensation_accuracy("mtt", asked, 0, tmp_path / "k", progress=False) == row
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "k").glob("[mp]*-*.*")} == stamps


@pytest.mark.parametrize("method", ["dm", "kip", "full", "random"])
def test_methods_that_are_not_looked_at_on_the_way_say_so(tmp_path, method):
    with pytest.raises(
        ValueError, match=f"{method!r} is not looked at on the way; allowed: mtt, iatm"
    ):
        replace(tiny("mtt"), method=method, progress_at=(1,), options={})
    with pytest.raises(ValueError, match="allowed: mtt, iatm"):
        condensation_accuracy(
            method, replace(tiny("mtt"), progress_at=(1,), options={}), 0, tmp_path, progress=False
        )
    assert not list(tmp_path.iterdir())


def test_killed_while_looking_on_the_way_nothing_is_left_out(tmp_path, monkeypatch):
    asked = replace(tiny("mtt"), progress_at=(2,))
    straight = condensation_accuracy("mtt", asked, 0, tmp_path / "s", progress=False)

    def kill(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "_set_of", kill)
    monkeypatch.setattr(
        experiments, "condense", lambda *a, **k: condensing.condense(*a, checkpoint_every=1, **k)
    )
    with pytest.raises(KeyboardInterrupt):
        condensation_accuracy("mtt", asked, 0, tmp_path / "k", progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(experiments, "not_seen", lambda *a: [])  # not needed here
    assert condensation_accuracy("mtt", asked, 0, tmp_path / "k", progress=False) == straight


def test_a_killed_condensation_goes_on(tmp_path):
    straight = condensed_set("iatm", tiny("iatm"), 0, tmp_path / "s", progress=False)

    def stop(iteration, *_):
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condensed_set("iatm", tiny("iatm"), 0, tmp_path / "k", progress=False, on_iteration=stop)
    resumed = condensed_set("iatm", tiny("iatm"), 0, tmp_path / "k", progress=False)
    assert torch.equal(resumed.images, straight.images) and resumed.lr == straight.lr
    assert not list((tmp_path / "k").glob("*.part.safetensors"))


def test_pictures_before_and_after(tmp_path):
    measured = {"row": "mtt", "settings": asdict(tiny("mtt")), "seed": 0}
    assert images_of(measured, tmp_path) is None  # nothing was made, and nothing is
    condensed_set("mtt", tiny("mtt"), 1, tmp_path, progress=False)
    kept = set(tmp_path.iterdir())
    # another set of the method is not this one
    assert images_of(measured, tmp_path) is None and set(tmp_path.iterdir()) == kept
    made = condensed_set("mtt", tiny("mtt"), 0, tmp_path, progress=False)
    before, after, labels = images_of(measured, tmp_path)
    assert (
        torch.equal(after, made.to_raw())
        and torch.equal(labels, made.labels)
        and 0 < (after - before).abs().mean() < 0.2
    )
    with pytest.raises(ValueError, match="'dm'; allowed: mtt, iatm"):
        images_of({"row": "dm", "settings": asdict(TINY), "seed": 0}, tmp_path)


def test_zca_is_fitted_once(tmp_path, monkeypatch):
    calls = []
    # a real fit takes seconds
    trivial = ZCAWhitening(torch.full((3072,), 0.5), torch.ones(3072), torch.eye(3072))
    monkeypatch.setattr(condensing, "fit_zca", lambda images: calls.append(1) or trivial)
    for seed in (0, 1):
        assert condensation_accuracy(
            "random", replace(TINY, whitening="zca"), seed, tmp_path, progress=False
        )["accuracy"]
    assert len(calls) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"dataset": "svhn"},
        {"method": "mmt"},
        {"method": "iatm", "reading": "x"},
        {"method": "dm", "reading": "rank"},
        {"ipc": 0},
        {"precision": "fp8"},
        {"protocol": "best"},
        {"method": "mtt", "options": {"memory": 7}},
        {"method": "mtt", "options": {"steps": 5}},
        {"preset": "tiny", "method": "dm"},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        settings = replace(TINY, **wrong)
        # what only the method itself can tell
        condensed_set("random", settings, 0, "nowhere", progress=False)


def test_unknown_row_and_too_many_images_per_class(tmp_path):
    with pytest.raises(ValueError, match="random, herding"):
        condensation_accuracy("mmt", TINY, 0, tmp_path)
    with pytest.raises(ValueError, match="class 0 has 10 images"):
        condensed_set("random", replace(TINY, ipc=11), 0, tmp_path, progress=False)


def test_an_option_of_the_settings_is_an_option_of_the_method():
    assert method_of("svd", CondensationSettings(method="iatm")) == "iatm"
    assert method_options("dm", replace(TINY, options={"iterations": 3})) == {
        "width": 4,
        "iterations": 3,
    }
    assert method_options("random", TINY) == {}  # has no network, hence no width


def test_defaults_are_the_theses_protocol():
    s = CondensationSettings()
    assert (s.eval_runs, s.eval_epochs, s.preset, s.whitening, s.protocol) == (
        4,
        1000,
        "paper",
        "auto",
        "thesis",
    )


def test_the_schedule_is_table_4_3():
    printed, table = load_thesis()["table_4_3"], load_tables()["table_4_3"]
    for row, cells in printed.items():
        settings = CondensationSettings(**table.rows[row].settings)
        found = schedule(row, settings, 0, "")
        for column, value in cells.items():
            if value is not None:  # a dash: T and T+ are equal
                assert found[column] == value, (row, column)
            else:
                assert found["t"] == found["t_plus"], row
    assert len(printed) == len(TABLE_4_3) == 9
