"The study survives kills, refuses what it does not know, and never invents a number."

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from effdl_nb import study
from effdl_nb.files import read_json, write_json

TABLES = """
table_9_1:
  kind: table
  number: "9.1"
  chapter: 9
  title: Draws
  spread: deviation
  experiment: study_draws:draw
  rows: {a: {label: A}, b: {label: B, settings: {size: 7}}}
  columns:
    value: {label: Value, metric: value}
    large: {label: Large, metric: value, settings: {size: 100}}
    size: {label: Size, metric: size, counted: true}
table_9_2: {kind: table, number: "9.2", chapter: 9, title: Later, rows: {a: {label: A}}, columns: {value: {label: Value}}}
"""
EXPERIMENT = """
import time
from dataclasses import dataclass
from effdl_nb.spec import experiment
calls = []
@dataclass(frozen=True)
class Settings:
    size: int = 1
    bad: str = ""
@experiment(Settings)
def draw(task):
    row, settings, seed = task.row, task.settings, task.seed
    calls.append((row, settings.size, seed))
    print("measuring", row, settings.size, seed, flush=True)
    if settings.bad == "nan":
        return {"value": float("nan"), "size": 1}
    if settings.bad == "missing":
        return {"size": 1}
    if settings.bad == "seeded":
        return {"value": 1.0, "size": seed}
    if settings.bad == "slow" and seed == 1:
        time.sleep(60)
    return {"value": [settings.size + seed, settings.size + seed + 1], "size": settings.size}
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "workflow" / "profiles").mkdir(parents=True)
    (tmp_path / "workflow" / "tables.yaml").write_text(TABLES)
    (tmp_path / "workflow" / "thesis.yaml").write_text(
        "table_9_1: {values: {a: {value: {printed: 1.5, corrected: 2.5, why: slip}}}}"
    )
    (tmp_path / "study_draws.py").write_text(EXPERIMENT)
    monkeypatch.setenv("EFFDL_ROOT", str(tmp_path))
    monkeypatch.setenv("EFFDL_REPORTS", "")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("study_draws", None)
    study.load_thesis.cache_clear()

    def profile(plan="{seeds: [0, 1]}", **more):
        lines = {"title": "Toy", "threads": 1, "jobs": "table", "changed": "remake"} | more
        text = (
            "\n".join(f"{k}: {v}" for k, v in lines.items()) + f"\ntables: {{table_9_1: {plan}}}\n"
        )
        (tmp_path / "workflow" / "profiles" / "toy.yaml").write_text(text)

    profile()
    yield tmp_path, profile
    sys.modules.pop("study_draws", None)
    study.load_thesis.cache_clear()


def row(root: Path, key: str) -> dict:
    return read_json(root / "reports" / "toy" / "rows" / "table_9_1" / f"{key}.json")


def quiet(line): ...


def test_columns_with_equal_settings_share_a_measurement(toy):
    root, _ = toy
    study.run("table_9_1", "toy", say=quiet).check()
    import study_draws

    # Row a measures size 1 (columns value and size) and size 100 (column large). Row b's own setting wins over the column's: one measurement.
    assert study_draws.calls == [
        ("a", 1, 0),
        ("a", 1, 1),
        ("a", 100, 0),
        ("a", 100, 1),
        ("b", 7, 0),
        ("b", 7, 1),
    ]
    cells = {cell["column"]: cell for cell in row(root, "a")["cells"]}
    assert (
        cells["value"]["values"] == {"0": [1, 2], "1": [2, 3]}
        and cells["value"]["mean"] == 2
        and cells["value"]["n"] == 4
    )
    assert cells["size"]["values"] == {"0": [1]} and cells["size"]["spread"] is None
    assert cells["large"]["mean"] == 101.0
    assert cells["value"]["thesis"] == {"printed": 1.5, "corrected": 2.5, "why": "slip"}


def test_of_several_processes_only_the_first_writes(toy, monkeypatch):
    root, _ = toy
    monkeypatch.setenv("RANK", "1")  # as torchrun sets it
    said = []
    study.run("table_9_1", "toy", rows="b", say=said.append).check()
    import study_draws

    assert study_draws.calls and not said and not list((root / "reports").rglob("*.json"))
    monkeypatch.setenv("RANK", "0")
    study.run("table_9_1", "toy", rows="b", say=said.append).check()
    assert len(said) == 2 and len(row(root, "b")["measurements"]) == 2


def test_more_seeds_measure_only_the_new_ones(toy):
    root, profile = toy
    study.run("table_9_1", "toy", say=quiet).check()
    import study_draws

    study_draws.calls.clear()
    profile("{seeds: [0, 1, 2]}")
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    assert study_draws.calls == [("b", 7, 2)] and len(row(root, "b")["measurements"]) == 3


def test_a_seed_measured_again_counts_before_the_old_row(toy):
    root, _ = toy
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    path = root / "study_draws.py"
    path.write_text(path.read_text().replace("settings.size + seed,", "settings.size + 10 * seed,"))
    sys.modules.pop("study_draws")
    study.run("table_9_1", "toy", rows="b", seeds="0", say=quiet).check()  # interrupted here
    import study_draws

    study_draws.calls.clear()
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    assert study_draws.calls == [("b", 7, 1)]
    assert row(root, "b")["cells"][0]["values"]["1"] == [17, 9]


def test_a_number_is_not_stamped_with_code_edited_after_loading(toy):
    root, _ = toy
    study.run("table_9_1", "toy", rows="a", say=quiet).check()
    path = root / "study_draws.py"
    # while this process still holds the old module
    path.write_text(path.read_text().replace("settings.size + seed,", "settings.size,"))
    with pytest.raises(study.RowsFailed, match="changed after this process had loaded it"):
        study.run("table_9_1", "toy", rows="b", say=quiet).check()


def test_a_new_column_repairs_the_row_without_measuring(toy):
    root, profile = toy
    profile("{seeds: [0, 1], columns: [value]}")
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    study.write_plans("toy")
    plan = root / "reports" / "toy" / "plans" / "table_9_1" / "b.json"
    before = plan.stat().st_mtime_ns
    profile("{seeds: [0, 1], columns: [value, size]}")
    study.write_plans("toy")
    assert plan.stat().st_mtime_ns > before  # so the scheduler runs the table again
    import study_draws

    study_draws.calls.clear()
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    assert study_draws.calls == [] and [c["column"] for c in row(root, "b")["cells"]] == [
        "value",
        "size",
    ]


def test_one_seed_at_a_time_makes_the_row_when_all_are_there(toy):
    root, _ = toy
    study.run("table_9_1", "toy", rows="b", seeds="1", say=quiet).check()
    assert not (root / "reports" / "toy" / "rows" / "table_9_1" / "b.json").exists()
    study.run("table_9_1", "toy", rows="b", seeds="0", say=quiet).check()
    assert row(root, "b")["cells"][0]["values"] == {"0": [7, 8], "1": [8, 9]}
    # the row is the only place of its values
    assert not list((root / "reports" / "toy" / "work").rglob("*.json"))


def test_a_row_column_by_column(toy):
    root, profile = toy
    plan = "{seeds: [0, 1], rows: [a], columns: [value, large]%s}"
    profile(plan % "")
    table, at = study.load_tables()["table_9_1"], study.place(study.load_profile("toy"))

    def states():
        return [
            study.row_state(table, study.load_profile("toy"), "a", at, column)
            for column in ("value", "large", None)
        ]

    study.run("table_9_1", "toy", columns="large", seeds="1", say=quiet).check()
    assert states() == ["missing", "missing", "missing"]
    study.run("table_9_1", "toy", columns="large", say=quiet).check()
    assert states() == ["missing", "measured", "partial"] and [
        c["column"] for c in row(root, "a")["cells"]
    ] == ["large"]
    assert study.write_plans("toy") == {"table_9_1": ["a"]}, "the rest is still wanted"
    before = row(root, "a")["measurements"]
    profile(plan % ", column_settings: {value: {bad: nan}}")
    assert len(study.run("table_9_1", "toy", columns="value", say=quiet).failures) == 1
    assert states() == ["failed", "measured", "failed"] and row(root, "a")["measurements"] == before
    profile(plan % "")
    study.run("table_9_1", "toy", say=quiet).check()
    assert (
        states() == ["measured"] * 3
        and [m for m in row(root, "a")["measurements"] if m in before] == before
    )
    assert (
        not list((root / "reports" / "toy" / "work").rglob("*.json"))
        and not at.failure("table_9_1", "a").exists()
    )
    profile(plan % ", column_settings: {large: {size: 99}}")
    study.run("table_9_1", "toy", columns="value", say=quiet).check()
    assert states() == ["measured", "outdated", "partial"] and len(row(root, "a")["cells"]) == 2, (
        "a cell stays until it is replaced"
    )
    with pytest.raises(ValueError, match="column 'weight' is unknown.*value, large"):
        study.run("table_9_1", "toy", columns="weight", say=quiet)


@pytest.mark.parametrize(
    "bad, words",
    [
        ("nan", "returned value = .nan."),
        ("missing", "column value needs value"),
        ("seeded", "must not depend on the seed"),
    ],
)
def test_a_result_that_is_no_number_never_becomes_a_row(toy, bad, words):
    root, profile = toy
    profile(f"{{seeds: [0, 1], rows: [b], settings: {{bad: {bad}}}}}")
    outcome = study.run("table_9_1", "toy", say=quiet)
    with pytest.raises(study.RowsFailed, match=words):
        outcome.check()
    assert not (root / "reports" / "toy" / "rows" / "table_9_1" / "b.json").exists()


def test_a_kill_between_seeds_keeps_the_finished_one(toy):
    root, profile = toy
    profile("{seeds: [0, 1], rows: [b], settings: {bad: slow}}")
    command = [sys.executable, "-m", "effdl_nb.study", "table_9_1", "--profile", "toy"]
    worker = subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )
    with worker:
        while (line := worker.stdout.readline()) != "measuring b 7 1\n":
            assert line, "the study ended before its second seed"
        worker.send_signal(signal.SIGKILL)
    units = list((root / "reports" / "toy" / "work").rglob("*.json"))
    assert len(units) == 1 and read_json(units[0])["seed"] == 0
    import study_draws

    study_draws.calls.clear()
    kept = study.kept_measurements(
        study.load_tables()["table_9_1"],
        study.load_profile("toy"),
        "b",
        study.place(study.load_profile("toy")),
    )
    assert [m["seed"] for m in kept.values()] == [0]


@pytest.mark.parametrize("content", ["", "{", '{"measurements": 3'])
def test_a_damaged_row_is_named(toy, content):
    root, _ = toy
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    path.write_text(content)
    outcome = study.run("table_9_1", "toy", say=quiet)
    with pytest.raises(
        study.RowsFailed, match="1 of 2 rows.*\n.*b.json is not a JSON file.*Delete it"
    ):
        outcome.check()
    assert row(root, "a")["cells"]  # the other row was measured all the same


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"cells": [], "measurements": null}'])
def test_a_row_that_holds_something_else_is_named(toy, content):
    root, _ = toy
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    path.write_text(content)
    with pytest.raises(
        study.RowsFailed, match="1 of 2 rows.*\n.*b.json is not a row of the study.*Delete it"
    ):
        study.run("table_9_1", "toy", say=quiet).check()
    with pytest.raises(ValueError, match="b.json is not a row of the study"):
        study.write_plans("toy", root / "reports")


def test_seeds_measured_at_the_same_time_make_one_row(toy, monkeypatch):
    root, profile = toy
    profile("{seeds: [0, 1], rows: [b]}")
    own, others = study.measure, []

    def measure(*given):
        if not others:  # as if another process measured seed 1 meanwhile
            others.append(study.run("table_9_1", "toy", rows="b", seeds="1", say=quiet))
        return own(*given)

    monkeypatch.setattr(study, "measure", measure)
    study.run("table_9_1", "toy", rows="b", seeds="0", say=quiet).check()
    assert sorted(m["seed"] for m in row(root, "b")["measurements"]) == [0, 1]


def test_a_column_that_old_measurements_cannot_fill_is_measured(toy):
    root, profile = toy
    profile("{seeds: [0], rows: [b]}")
    study.run("table_9_1", "toy", say=quiet).check()
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    record = read_json(path)
    for m in record["measurements"]:
        m["metrics"].pop("size")
    path.write_text(json.dumps(record))
    study.run("table_9_1", "toy", say=quiet).check()
    assert all("size" in m["metrics"] for m in row(root, "b")["measurements"])


@pytest.mark.parametrize(
    "plan, words",
    [
        ("{seeds: []}", "at least one"),
        ("{seeds: [-1]}", "whole numbers from 0"),
        ("{seeds: [a]}", "whole numbers"),
        ("{}", "seeds missing"),
        ("{seeds: [0], rows: [c]}", "row 'c' is unknown; allowed: a, b"),
        ("{seeds: [0], columns: [c]}", "column 'c' is unknown"),
        ("{seeds: [0], row_settings: {c: {}}}", "row 'c' is unknown"),
        ("[0]", "must be a mapping"),
        ("{seeds: [0], colour: 1}", "'colour' is unknown; allowed: seeds"),
    ],
)
def test_wrong_plans_are_refused(toy, plan, words):
    _, profile = toy
    profile(plan)
    with pytest.raises(ValueError, match=words):
        study.load_profile("toy")


@pytest.mark.parametrize(
    "more, words",
    [
        ({"jobs": "cell"}, "jobs 'cell' is unknown; allowed: table, row"),
        ({"changed": "maybe"}, "allowed: remake, mark"),
        ({"speed": 1}, "'speed' is unknown; allowed: title, threads, jobs, changed"),
    ],
)
def test_wrong_profiles_are_refused(toy, more, words):
    _, profile = toy
    profile(**more)
    with pytest.raises(ValueError, match=words):
        study.load_profile("toy")


def test_a_table_without_experiment_cannot_be_planned(toy):
    root, _ = toy
    (root / "workflow" / "profiles" / "toy.yaml").write_text(
        "title: T\nthreads: 1\njobs: table\nchanged: mark\ntables: {table_9_2: {seeds: [0]}}\n"
    )
    with pytest.raises(ValueError, match="9.2 has no experiment yet"):
        study.load_profile("toy")


def test_settings_come_in_their_order(toy):
    _, profile = toy
    profile(
        "{seeds: [0], settings: {size: 3}, column_settings: {large: {size: 4}}, row_settings: "
        "{b: {size: 5}}}"
    )
    table, plan = study.load_tables()["table_9_1"], study.load_profile("toy").tables["table_9_1"]
    sizes = {
        (r, c): study.settings_of(table, plan, r, c).size for r in "ab" for c in ("value", "large")
    }
    assert sizes == {("a", "value"): 3, ("a", "large"): 4, ("b", "value"): 5, ("b", "large"): 5}


def test_committed_profiles_are_valid_and_name_real_settings():
    root = Path(__file__).parent.parent
    tables = study.load_tables(root)
    for name in study.PROFILES:
        profile = study.load_profile(name, root)
        for key, plan in profile.tables.items():
            for r in plan.rows:
                assert study.units_of(tables[key], plan, r)
    assert (
        study.load_profile("quick", root).changed == "remake"
        and study.load_profile("paper", root).changed == "mark"
    )


def test_rows_in_the_repository_are_whole_and_honest():
    root = Path(__file__).parent.parent
    for path in (root / "reports").glob("*/rows/*/*.json"):
        if path.name.endswith(".failed.json"):
            continue
        record = json.loads(path.read_text())
        for cell in record["cells"]:
            again = study.summary(cell["values"], cell["spread_kind"])
            assert (cell["mean"], cell["spread"], cell["n"]) == (
                again["mean"],
                again["spread"],
                again["n"],
            ), path
            for value, key in (
                (m["metrics"][cell["metric"]], str(m["seed"]))
                for m in record["measurements"]
                if m["hash"] in cell["measurements"]
            ):
                assert cell["values"].get(key, value) == value, path


def test_write_json_refuses_a_row_with_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "row.json", {"mean": float("nan")})
