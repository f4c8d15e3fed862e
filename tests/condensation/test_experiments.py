"""The rows of Tables 4.1 to 4.4 at a tiny size: sharing, resuming, determinism, misuse."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from effdl_nb.condensation import experiments, trajectory
from effdl_nb.condensation import real as real_module
from effdl_nb.condensation.coresets import RandomConfig
from effdl_nb.condensation.experiments import (
    TITLES,
    CondensationSettings,
    build_settings,
    condensation_accuracy,
    condensed_set,
    images_of,
    schedule,
    setting_origins,
)
from effdl_nb.condensation.images import ZCAWhitening
from effdl_nb.condensation.learning import Run
from effdl_nb.condensation.matching import MatchingConfig
from effdl_nb.condensation.methods import METHODS, configure
from effdl_nb.condensation.trajectory import TABLE_4_3, IATMConfig
from effdl_nb.settings import merge
from effdl_nb.spec import Plan, Task, load_tables, load_thesis, settings_of

TRAJECTORY = {
    "experts": {"count": 2, "epochs": 3, "lr": 0.05, "batch_size": 50},
    "iterations": 4,
    "student_steps": 2,
    "expert_steps": 1,
    "first_start": 1,
    "max_start": 1,
    "image_lr": 0.03,
    "student_lr": 0.05,
    "lr_lr": 0.03,
}
JUDGE = {"runs": 2, "epochs": 4, "lr": 0.02}
TINY = {
    "dataset": "cifar10-sample",
    "train_size": 100,
    "test_size": 50,
    "whitening": "channel",
    "width": 4,
    "preset": "small",
    "evaluation": JUDGE,
}
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


def built(row, *layers, options=True) -> CondensationSettings:
    "A row's settings; `layers` stand over the tiny ones, as those of a table and a profile."
    method = merge(*layers, {}).get("method", row)
    content = TINY | ({"options": OPTIONS.get(method, {})} if options else {})
    return build_settings("here", row, merge(content, *layers))


def tiny(row, *layers) -> CondensationSettings:
    "Tiny settings of a row; all images are trained on in small batches."
    batches = {"evaluation": {"batch_size": 50 if row == "full" else 256}}
    return built(row, batches, *layers)


def task(row, work, *layers, seed=0) -> Task:
    return Task(row, tiny(row, *layers), seed, work, progress=False)


def accuracy(row, work, *layers, seed=0) -> dict:
    return condensation_accuracy(task(row, work, *layers, seed=seed))


@pytest.mark.parametrize("row", TITLES)
def test_every_row_is_deterministic_wherever_it_is_made(row, tmp_path):
    a, b = (accuracy(row, tmp_path / w, seed=3) for w in "ab")
    assert a == b and len(a["accuracy"]) == 2 and all(0 <= v <= 100 for v in a["accuracy"])


def test_rows_are_those_of_the_tables():
    tables = load_tables()
    for key in ("table_4_1", "table_4_2", "table_4_4"):
        assert set(tables[key].rows) <= set(TITLES), key
    assert set(METHODS) < set(tables["table_4_1"].rows)


def expert_stamps(work: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in work.glob("experts-*/experts-*/expert_*")}


def test_experts_are_shared_and_finished_work_is_not_repeated(tmp_path, monkeypatch):
    first, made = accuracy("mtt", tmp_path), []
    with monkeypatch.context() as patch:
        patch.setattr(trajectory, "condense_with_experts", lambda *a, **k: made.append(1))
        assert accuracy("mtt", tmp_path) == first and not made
    stamps = expert_stamps(tmp_path)
    for changed in ({}, {"reading": "soft"}, {"reading": "literal"}):
        accuracy("variant", tmp_path, {"method": "iatm", "options": changed}, seed=1)
    assert expert_stamps(tmp_path) == stamps and len(stamps) == 2
    assert len(list(tmp_path.glob("sets-*/iatm-*.safetensors"))) == 3
    # MTT's code is one folder, IATM's another
    assert len(list(tmp_path.glob("sets-*"))) == 2 and len(list(tmp_path.glob("experts-*"))) == 1


def test_evaluation_settings_do_not_condense_again(tmp_path):
    for changed in ({}, {"epochs": 5}, {"network": "alexnet", "width": 4}):
        accuracy("mtt", tmp_path, {"evaluation": changed})
    assert len(list(tmp_path.glob("sets-*/mtt-*.safetensors"))) == 1


def test_settings_that_shape_the_set_make_another_one(tmp_path):
    for options in ({}, {"iterations": 5}):
        condensed_set(task("mtt", tmp_path, {"options": options}))
    condensed_set(task("mtt", tmp_path, seed=1))
    assert len(list(tmp_path.glob("sets-*/mtt-*.safetensors"))) == 3
    assert len(list(tmp_path.glob("experts-*/experts-*"))) == 1


def test_accuracy_on_the_way_is_that_of_a_shorter_run(tmp_path):
    # nothing in MTT depends on the number of iterations, so its images after 2 of 4 are those of a
    # run of 2
    long = accuracy("mtt", tmp_path, {"progress_at": (2, 4)})
    short = accuracy("mtt", tmp_path, {"options": {"iterations": 2}})
    (two, *middle), (four, *end) = long["details"]["on_the_way"]
    assert (two, four) == (2, 4) and middle == short["accuracy"] and end == long["accuracy"]
    again = accuracy("mtt", tmp_path, {"progress_at": (2, 4)})
    assert again == long  # the set is read, and so is what was measured on the way


def test_a_set_that_another_row_made_is_looked_at_on_the_way_all_the_same(tmp_path):
    # 9 lies beyond the run: it is not waited for
    asked, made = {"progress_at": (2, 4, 9)}, tmp_path / "k"
    straight = accuracy("mtt", tmp_path / "s", asked)
    first = accuracy("variant", made, {"method": "mtt"})
    assert "on_the_way" not in first["details"]
    row = accuracy("mtt", made, asked)
    assert [r[0] for r in row["details"]["on_the_way"]] == [2, 4] and row == straight

    def stamps():
        files = [*made.glob("sets-*/mtt*.*"), *made.glob("progress-*/[!.]*.json")]
        return {p: p.stat().st_mtime_ns for p in files}

    before = stamps()
    assert accuracy("mtt", made, asked) == row and stamps() == before and len(before) == 2


@pytest.mark.parametrize("method", ["dm", "kip", "full", "random"])
def test_methods_that_are_not_looked_at_on_the_way_say_so(method):
    words = f"{method!r} is not looked at on the way; allowed: mtt, iatm"
    with pytest.raises(ValueError, match=words):
        replace(tiny("mtt"), method=method, progress_at=(1,))
    for row, content in ((method, {}), ("variant", {"method": method})):
        with pytest.raises(ValueError, match=words):
            tiny(row, content, {"progress_at": (1,)})


def test_killed_while_looking_on_the_way_nothing_is_left_out(tmp_path, monkeypatch):
    asked = {"progress_at": (2,)}
    straight = accuracy("mtt", tmp_path / "s", asked)

    def kill(*a, **k):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiments, "_set_of", kill)
        patch.setattr(experiments, "Run", partial(Run, checkpoint_every=1))
        with pytest.raises(KeyboardInterrupt):
            accuracy("mtt", tmp_path / "k", asked)
    assert list((tmp_path / "k").glob("sets-*/mtt-*.part.safetensors"))
    monkeypatch.setattr(experiments, "not_seen", lambda *a: [])  # not needed here
    assert accuracy("mtt", tmp_path / "k", asked) == straight


def test_a_killed_condensation_resumes(tmp_path):
    straight = condensed_set(task("iatm", tmp_path / "s"))

    def stop(iteration, *_):
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condensed_set(task("iatm", tmp_path / "k"), stop)
    resumed = condensed_set(task("iatm", tmp_path / "k"))
    assert torch.equal(resumed.images, straight.images) and resumed.lr == straight.lr
    assert not list((tmp_path / "k").glob("sets-*/*.part.safetensors"))


def kept(settings: CondensationSettings, row="mtt", seed=0) -> dict:
    "A measurement as a row's file has it."
    return json.loads(json.dumps({"row": row, "settings": asdict(settings), "seed": seed}))


def test_pictures_before_and_after(tmp_path):
    measured = kept(tiny("mtt"))
    assert images_of(measured, tmp_path) is None  # nothing was made, and nothing is
    condensed_set(task("mtt", tmp_path, seed=1))
    files = set(tmp_path.rglob("*.safetensors"))
    # another set of the method is not this one
    assert images_of(measured, tmp_path) is None and set(tmp_path.rglob("*.safetensors")) == files
    made = condensed_set(task("mtt", tmp_path))
    before, after, labels = images_of(measured, tmp_path)
    assert torch.equal(after, made.to_raw()) and torch.equal(labels, made.labels)
    assert 0 < (after - before).abs().mean() < 0.2
    with pytest.raises(ValueError, match="'dm' has no such images; allowed: mtt, iatm"):
        images_of(kept(tiny("dm"), "dm"), tmp_path)


@pytest.mark.parametrize("method", ["mtt", "iatm"])
def test_a_measured_row_has_its_settings_back(method):
    asked = tiny(method, {"progress_at": [1, 2]})
    measured = {"row": method, "settings": asdict(asked), "seed": 0}
    assert experiments.settings_of_row(measured) == asked
    assert experiments.settings_of_row(json.loads(json.dumps(measured))) == asked


def test_zca_is_fitted_once(tmp_path, monkeypatch):
    calls = []
    # a real fit takes seconds
    trivial = ZCAWhitening(torch.full((3072,), 0.5), torch.ones(3072), torch.eye(3072))
    monkeypatch.setattr(real_module, "fit_zca", lambda images, **_: calls.append(1) or trivial)
    monkeypatch.setattr(real_module, "_LAST", {})
    for row, seed in (("random", 0), ("random", 1), ("dm", 0), ("full", 0)):
        real_module._LAST.clear()  # as in processes of their own
        assert accuracy(row, tmp_path, {"whitening": "zca"}, seed=seed)["accuracy"]
    assert len(calls) == 1
    real_module._LAST.clear()  # it is trivial


@pytest.mark.parametrize(
    ("row", "wrong", "words"),
    [
        ("random", {"dataset": "svhn"}, "dataset 'svhn' is unknown; allowed: .*cifar10"),
        ("random", {"method": "mmt"}, "allowed: random, herding"),
        ("random", {"whitening": "pca"}, "whitening 'pca' is unknown; allowed: auto"),
        ("iatm", {"options": {"reading": "x"}}, "reading 'x' is unknown"),
        ("dm", {"options": {"reading": "rank"}}, "dm has no option 'reading'; allowed: batch_real"),
        ("random", {"ipc": 0}, "ipc must be a whole number from 1, not 0"),
        ("random", {"evaluation": {"precision": "fp8"}}, "evaluation: .*fp8"),
        ("random", {"evaluation": {"protocol": "best"}}, "evaluation: .*'best' is unknown"),
        ("random", {"evaluation": {"runs": 0}}, "evaluation: .*runs must be at least 1, not 0"),
        ("random", {"evaluation": {"rate": 1}}, "evaluation: 'rate' is unknown; allowed: network"),
        ("mtt", {"options": {"memory": 7}}, "memory is 7; allowed: a word"),
        ("mtt", {"options": {"steps": 5}}, "mtt has no option 'steps'"),
        ("mtt", {"options": {"experts": {"steps": 5}}}, "no option 'experts.steps'"),
        ("dm", {"preset": "tiny"}, "preset 'tiny' is unknown"),
        ("dm", {"eval_runs": 3}, "here: 'eval_runs' is unknown; allowed: dataset"),
    ],
)
def test_wrong_settings(row, wrong, words):
    with pytest.raises(ValueError, match=words):
        tiny(row, wrong)


def test_an_unknown_row_and_more_images_per_class_than_there_are(tmp_path):
    with pytest.raises(ValueError, match="row 'mmt' is unknown; allowed: random, herding"):
        built("mmt")
    with pytest.warns(UserWarning, match=r"\(10\) have fewer images than the 11"):
        made = condensed_set(task("random", tmp_path, {"ipc": 11}))
    assert len(made) == 100  # all that there are


def test_an_option_of_the_settings_is_an_option_of_the_method():
    settings = tiny("svd", {"method": "iatm", "options": {"reading": "svd"}})
    assert settings.method == "iatm" and type(settings.condensation) is IATMConfig
    assert settings.condensation.reading == "svd"
    dm = built("dm", {"options": {"iterations": 3}}, options=False).condensation
    small = {**METHODS["dm"].small, "width": 4, "iterations": 3}
    assert type(dm) is MatchingConfig and {k: getattr(dm, k) for k in small} == small
    assert tiny("random").condensation == RandomConfig()  # has no network, hence no width
    assert tiny("full").condensation is None


def test_width_and_network_hold_for_method_and_evaluation():
    settings = built("mtt", {"network": "convnet-2"})
    for part in (settings.condensation, settings.evaluation):
        assert (part.network, part.width) == ("convnet-2", 4)
    # another network of the evaluation has its own width
    other = built("mtt", {"evaluation": {"network": "alexnet"}})
    assert (other.evaluation.network, other.evaluation.width) == ("alexnet", None)
    both = built("herding", {"options": {"width": 8}})
    assert (both.condensation.width, both.evaluation.width) == (8, 4)


def test_defaults_are_the_protocol_of_the_dissertation():
    settings = build_settings("here", "iatm", {})
    e = settings.evaluation
    assert (e.runs, e.epochs, e.protocol, settings.whitening) == (4, 1000, "thesis", "auto")
    assert settings.condensation == configure("iatm", preset="paper")


@pytest.mark.parametrize("row", ["full", "random", "dm", "mtt"])
def test_the_layers_below_the_yaml_end_in_the_settings(row):
    content = {k: v for k, v in TINY.items() if k != "width"} | {"method": row}
    layers = merge(*(mapping for _, mapping in setting_origins(row, content)))
    settings = build_settings("here", row, content)
    told = layers["evaluation"] | JUDGE
    assert {k: getattr(settings.evaluation, k) for k in told} == told
    if row != "full":
        known = layers.get("options", {})
        config = asdict(settings.condensation)
        assert {k: config[k] for k in known} == known and set(config) - set(known) <= {
            "method",
            "ipc",
            "network",
            "seed",
        }


def test_the_schedule_is_table_4_3():
    printed, table = load_thesis()["table_4_3"], load_tables()["table_4_3"]
    plan, column = Plan(seeds=(0,)), next(iter(table.columns))
    for row, cells in printed.items():
        settings = settings_of(table, plan, row, column)
        values = schedule(Task(row, settings, 0, Path()))
        for name, value in cells.items():
            if value is not None:  # a dash: T and T+ are equal
                assert values[name] == value, (row, name)
            else:
                assert values["t"] == values["t_plus"], row
    assert len(printed) == len(TABLE_4_3) == 9


def test_a_coreset_of_another_seed_is_another_choice(tmp_path):
    a, b = (condensed_set(task("random", tmp_path, seed=seed)) for seed in (0, 1))
    assert (a.seed, b.seed) == (0, 1) and a.details["index"] != b.details["index"]
