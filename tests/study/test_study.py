"The study survives kills, refuses what it does not know, and never invents a number."

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from effdl_nb import rows, study
from effdl_nb.files import read_json, read_kept, write_json, write_kept
from effdl_nb.spec import explain, load_profile, load_tables


def row(root: Path, key: str) -> dict:
    return read_json(root / "reports" / "toy" / "rows" / "table_9_1" / f"{key}.json")


def planned(key: str) -> rows.PlannedRow:
    profile = load_profile("toy")
    return rows.PlannedRow(load_tables()["table_9_1"], profile, key, rows.place(profile))


def quiet(line): ...


def test_columns_with_equal_settings_share_a_measurement(toy):
    root, _ = toy
    study.run("table_9_1", "toy", say=quiet).check()
    import study_draws

    # Row a measures size 1 (columns value and size) and size 100 (column large).
    # Row b's own setting wins over the column's: one measurement.
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


def test_a_rank_without_other_processes_is_no_rank(toy, monkeypatch):
    root, _ = toy
    monkeypatch.setenv("RANK", "1")  # of some scheduler, not of torchrun
    study.run("table_9_1", "toy", rows="b", say=lambda line: None).check()
    assert len(list((root / "reports").rglob("rows/*/*.json"))) == 1


def test_of_several_processes_only_the_first_writes(toy, monkeypatch):
    root, _ = toy
    monkeypatch.setenv("RANK", "1")  # as torchrun sets them
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    study.run("table_9_1", "toy", rows="b", say=said.append).check()
    import study_draws

    assert study_draws.calls and not said and not list((root / "reports").rglob("*.json"))
    monkeypatch.setenv("RANK", "0")
    study.run("table_9_1", "toy", rows="b", say=said.append).check()
    assert len(said) == 2 and len(row(root, "b")["measurements"]) == 2


@pytest.mark.parametrize("table", ["table_3_5", "table_3_a", "table_3_b", "table_4_1", "table_4_a"])
def test_what_processes_cannot_share_says_so_before_work(table, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(study, "measure_row", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(RuntimeError, match=f"must be 1 for {table}, not 2: .* separate jobs"):
        study.run(table, "quick", reports=tmp_path)


def test_a_failing_row_ends_the_run_of_several_processes(toy, monkeypatch):
    root, _ = toy
    monkeypatch.setenv("WORLD_SIZE", "2")

    def broken(planned, *_):
        raise OSError(planned.row)

    monkeypatch.setattr(study, "measure_row", broken)
    with pytest.raises(OSError, match="a"):
        study.run("table_9_1", "toy", rows="a,b", say=quiet)
    assert len(list(root.rglob("*.failed.json"))) == 1


def test_more_seeds_measure_only_the_new_ones(toy):
    root, profile = toy
    study.run("table_9_1", "toy", say=quiet).check()
    import study_draws

    study_draws.calls.clear()
    profile("{seeds: [0, 1, 2]}")
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    assert study_draws.calls == [("b", 7, 2)] and len(row(root, "b")["measurements"]) == 3


def test_a_row_may_have_seeds_of_its_own(toy):
    root, profile = toy
    profile("{seeds: [0], row_seeds: {b: [0, 1, 2]}}")
    study.run("table_9_1", "toy", seeds="2", say=quiet).check()  # which row a does not have
    assert not (root / "reports/toy/rows/table_9_1/a.json").exists()
    study.run("table_9_1", "toy", say=quiet).check()
    found = {key: {m["seed"] for m in row(root, key)["measurements"]} for key in "ab"}
    assert found == {"a": {0}, "b": {0, 1, 2}}
    assert all(row(root, key)["cells"] for key in "ab")
    with pytest.raises(ValueError, match="seed '3' is unknown; allowed: all, 0, 1, 2"):
        study.run("table_9_1", "toy", seeds="3", say=quiet)


def test_a_row_may_have_columns_of_its_own(toy):
    root, profile = toy
    profile("{seeds: [0], columns: [value, large], row_columns: {a: [value]}}")
    study.run("table_9_1", "toy", columns="large", say=quiet).check()  # which row a does not have
    assert not (root / "reports/toy/rows/table_9_1/a.json").exists()
    study.run("table_9_1", "toy", say=quiet).check()
    cells = {key: [cell["column"] for cell in row(root, key)["cells"]] for key in "ab"}
    assert cells == {"a": ["value"], "b": ["value", "large"]}
    table, toys = load_tables()["table_9_1"], load_profile("toy")
    assert rows.row_state(table, toys, "a", rows.place(toys)) == "measured"
    state = rows.row_state(table, toys, "a", rows.place(toys), "large")
    assert state == "not run at this profile"
    assert not any(study.write_plans("toy").values())  # the workflow wants no more of it
    with pytest.raises(ValueError, match="column 'large' is unknown; allowed: all, value"):
        study.run("table_9_1", "toy", rows="a", columns="large", say=quiet)


def test_a_cell_may_have_settings_of_its_own(toy):
    root, profile = toy
    profile(
        "{seeds: [0], row_settings: {a: {size: 2}}, column_settings: {large: {size: 3}}, "
        "cell_settings: {a: {large: {size: 4}}}}"
    )
    study.run("table_9_1", "toy", rows="a", say=quiet).check()
    means = {cell["column"]: cell["mean"] for cell in row(root, "a")["cells"]}
    assert means == {"value": 2.5, "large": 4.5, "size": 2}
    said = explain("table_9_1", "a", "size", "toy", "large")
    assert "cell_settings.a.large" in said


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
    assert row(root, "b")["cells"] == [] and len(row(root, "b")["measurements"]) == 1
    study.run("table_9_1", "toy", rows="b", seeds="0", say=quiet).check()
    assert row(root, "b")["cells"][0]["values"] == {"0": [7, 8], "1": [8, 9]}
    # the row is the only place of its values
    assert not list((root / "reports" / "toy" / "work").rglob("*.json"))


def test_a_row_column_by_column(toy):
    root, profile = toy
    plan = "{seeds: [0, 1], rows: [a], columns: [value, large]%s}"
    profile(plan % "")
    table, at = load_tables()["table_9_1"], rows.place(load_profile("toy"))

    def states():
        return [
            rows.row_state(table, load_profile("toy"), "a", at, column)
            for column in ("value", "large", None)
        ]

    study.run("table_9_1", "toy", columns="large", seeds="1", say=quiet).check()
    assert states() == ["missing", "partial", "partial"] and row(root, "a")["cells"] == []
    assert [m["seed"] for m in row(root, "a")["measurements"]] == [1], "a seed is kept as it stands"
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
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    assert not path.exists() or row(root, "b")["cells"] == []


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
    assert [m["seed"] for m in row(root, "b")["measurements"]] == [0]
    import study_draws

    study_draws.calls.clear()
    assert [m["seed"] for m in planned("b").kept().values()] == [0]


@pytest.mark.parametrize("content", ["", "{", '{"measurements": 3'])
def test_a_damaged_row_is_named(toy, content):
    root, _ = toy
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    path.write_text(content)
    outcome = study.run("table_9_1", "toy", say=quiet)
    words = "1 of 2 rows.*: b: .*b.json is not a JSON file.*delete it"
    with pytest.raises(study.RowsFailed, match=words):
        outcome.check()
    assert row(root, "a")["cells"]  # the other row was measured all the same


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"cells": [], "measurements": null}'])
def test_a_row_that_holds_something_else_is_named(toy, content):
    root, _ = toy
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    path.write_text(content)
    words = "b.json (is not a row of the study|must hold a record).*delete it"
    with pytest.raises(study.RowsFailed, match=f"1 of 2 rows.*: b: .*{words}"):
        study.run("table_9_1", "toy", say=quiet).check()
    with pytest.raises(ValueError, match=words):
        study.write_plans("toy", root / "reports")


def test_seeds_measured_at_the_same_time_make_one_row(toy, monkeypatch):
    root, profile = toy
    profile("{seeds: [0, 1], rows: [b]}")
    own, others = study.measure, []

    def measure(*given):
        if not others:  # as if another process measured seed 1 meanwhile
            others.append("at work")
            study.run("table_9_1", "toy", rows="b", seeds="1", say=quiet).check()
        return own(*given)

    monkeypatch.setattr(study, "measure", measure)
    study.run("table_9_1", "toy", rows="b", seeds="0", say=quiet).check()
    assert sorted(m["seed"] for m in row(root, "b")["measurements"]) == [0, 1]


def test_a_column_that_old_measurements_cannot_fill_is_measured(toy):
    root, profile = toy
    profile("{seeds: [0], rows: [b]}")
    study.run("table_9_1", "toy", say=quiet).check()
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    record = read_kept(path)
    for m in record["measurements"]:
        m["metrics"].pop("size")
    record["cells"] = [cell for cell in record["cells"] if cell["column"] != "size"]
    write_kept(path, record)
    study.run("table_9_1", "toy", say=quiet).check()
    assert all("size" in m["metrics"] for m in row(root, "b")["measurements"])


def test_rows_in_the_repository_are_whole_and_honest():
    root = Path(__file__).parents[2]
    for path in (root / "reports").glob("*/rows/*/*.json"):
        if path.name.endswith(".failed.json"):
            continue
        record = json.loads(path.read_text())
        for cell in record["cells"]:
            again = rows.summary(cell["values"], cell["spread_kind"])
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


def test_a_mean_that_no_measurement_gave_is_no_result(toy):
    root, _ = toy
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    record = read_kept(path)
    means = [cell["mean"] for cell in record["cells"]]
    for cell in record["cells"]:
        cell["mean"], cell["spread"] = 99.99, 0.0
    write_json(path, record)  # without a seal, as rows were before
    assert [cell["mean"] for cell in rows.read_row(path)["cells"]] == means
    path.write_text(path.read_text().replace('"metric": "value"', '"matric": "value"'))
    with pytest.raises(ValueError, match="b.json is not a row of the study.*'metric'"):
        rows.read_row(path)


def test_an_altered_row_or_unit_is_not_read(toy):
    root, _ = toy
    study.run("table_9_1", "toy", rows="b", say=quiet).check()
    path = root / "reports" / "toy" / "rows" / "table_9_1" / "b.json"
    path.write_text(path.read_text().replace('"hash"', '"hash" ').replace("7.0", "7.5"))
    with pytest.raises(ValueError, match="b.json was altered.*delete it"):
        rows.read_row(path)


def test_write_json_refuses_a_row_with_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "row.json", {"mean": float("nan")})


def test_the_command_explains_a_setting(toy, capsys):
    _, profile = toy
    profile("{seeds: [0], settings: {size: 3}}")
    assert study.main(["explain", "table_9_1", "b", "size", "--profile", "toy"]) == 0
    assert "> 3  config/toy.yaml: table_9_1.settings.size" in capsys.readouterr().out
    assert study.main(["explain", "table_9_1", "b", "sizes", "--profile", "toy"]) == 2
    assert "setting 'sizes' is unknown; allowed: size, bad" in capsys.readouterr().err


def test_the_command_measures_a_row(toy, capsys):
    root, _ = toy
    assert study.main(["table_9_1", "--row", "b", "--seed", "1", "--profile", "toy"]) == 0
    assert study.main(["table_9_1", "--row", "b", "--profile", "toy"]) == 0
    assert row(root, "b")["cells"][0]["values"] == {"0": [7, 8], "1": [8, 9]}
    assert study.main(["table_9_1", "--row", "c", "--profile", "toy"]) == 2
    assert "row 'c' is unknown; allowed: all, a, b" in capsys.readouterr().err


def test_an_edit_concerns_only_the_rows_that_use_it(toy):
    root, profile = toy
    (root / "study_draws.py").write_text(TWO_WAYS)
    profile("{seeds: [0], columns: [value]}")
    study.run("table_9_1", "toy", say=quiet).check()
    before = {key: planned(key).units[0].code for key in "ab"}
    assert before["a"] != before["b"]
    path = root / "study_draws.py"
    path.write_text(
        TWO_WAYS.replace("def way_b(size): return size", "def way_b(size): return -size")
    )
    assert [planned(key).units[0].code != before[key] for key in "ab"] == [False, True]
    assert study.write_plans("toy") == {"table_9_1": ["b"]}
    # and what was measured with the old code may not be stamped with the new
    with pytest.raises(study.RowsFailed, match="b: .*changed after this process had loaded it"):
        study.run("table_9_1", "toy", say=quiet).check()


TWO_WAYS = """
from dataclasses import dataclass
from effdl_nb.spec import experiment
@dataclass(frozen=True)
class Settings:
    size: int = 1
def way_a(size): return size
def way_b(size): return size
def code(row, settings): return (f"study_draws:way_{row}",)
@experiment(Settings, code=code)
def draw(task):
    return {"value": float(globals()[f"way_{task.row}"](task.settings.size)), "size": 1}
"""


def test_what_rows_share_is_kept_by_the_code_that_made_it(toy):
    root, profile = toy
    path = root / "study_draws.py"
    path.write_text(SHARING)
    profile("{seeds: [0], columns: [value]}")
    study.run("table_9_1", "toy", say=quiet).check()
    made = sorted(root.glob("reports/toy/work/study_draws/expert-*/made"))
    assert len(made) == 1 and made[0].read_text() == "a"  # row b found what row a had made
    path.write_text(SHARING.replace("write_text(row)", "write_text(2 * row)"))
    sys.modules.pop("study_draws")
    study.run("table_9_1", "toy", say=quiet).check()
    texts = [p.read_text() for p in root.glob("reports/toy/work/study_draws/expert-*/made")]
    assert sorted(texts) == ["a", "aa"]


SHARING = """
from dataclasses import dataclass
from effdl_nb.spec import experiment
@dataclass(frozen=True)
class Settings:
    size: int = 1
def make(folder, row):
    folder.mkdir(parents=True)
    (folder / "made").write_text(row)
@experiment(Settings)
def draw(task):
    folder = task.shared("expert", "study_draws:make")
    if not folder.exists():
        make(folder, task.row)
    return {"value": 1.0}
"""
