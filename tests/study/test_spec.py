"Tables, plans and profiles say what is run, and raise errors for what they do not know."

import dataclasses
from pathlib import Path

import pytest

from effdl_nb import rows, spec, study


@pytest.mark.parametrize(
    "plan, words",
    [
        ("{seeds: []}", "at least one"),
        ("{seeds: [-1]}", "whole numbers from 0"),
        ("{seeds: [0], row_seeds: {a: [1, 1]}}", r"row_seeds of a must be .*, not \(1, 1\)"),
        ("{seeds: [0], row_seeds: {c: [1]}}", "row 'c' is unknown; allowed: a, b"),
        ("{seeds: [0], row_columns: {c: [size]}}", "row 'c' is unknown; allowed: a, b"),
        ("{seeds: [0], row_columns: {a: [c]}}", "row_columns of a: column 'c' is unknown"),
        ("{seeds: [0], columns: [size], row_columns: {a: [value]}}", "'value' is unknown; .* size"),
        ("{seeds: [0], row_columns: {a: []}}", "row_columns of a must name a column, not none"),
        ("{seeds: [0], cell_settings: {c: {}}}", "row 'c' is unknown; allowed: a, b"),
        ("{seeds: [0], cell_settings: {a: {c: {}}}}", "cell_settings of a: column 'c' is unknown"),
        ("{seeds: [a]}", r"table_9_1.seeds\[0\] must be a whole number, not 'a'"),
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
        spec.load_profile("toy")


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
        spec.load_profile("toy")


MALFORMED = [  # one change of a valid profile, and the words that tell place and value
    ("threads: two", "threads must be a whole number, not 'two'"),
    ("threads: 0", "threads must be at least 1, not 0"),
    ("title: 5", "title must be text, not 5"),
    ("first: table_9_1", "first must be a list, not 'table_9_1'"),
    ("tables: [table_9_1]", "tables must be a mapping, not ['table_9_1']"),
    ("tables: {table_9_1: quick}", "tables.table_9_1 must be a mapping, not 'quick'"),
    ("colour: 1", "'colour' is unknown; allowed: title, threads, jobs"),
    ("name: mine", "'name' is unknown; allowed: title, threads, jobs"),
    ("1: 2", "a key must be text, not 1"),
    ("title: 2026-01-01", "title must be text, a number, a list or a mapping, not datetime.date"),
]
MALFORMED_PLANS = [
    ("seeds: 3", "seeds must be a list, not 3"),
    ("row_seeds: {a: 3}", "row_seeds.a must be a list, not 3"),
    ("row_columns: {a: size}", "row_columns.a must be a list, not 'size'"),
    ("cell_settings: {a: {value: 3}}", "cell_settings.a.value must be a mapping, not 3"),
    ("seeds: [true]", "seeds[0] must be a whole number, not True"),
    ('seeds: ["0"]', "seeds[0] must be a whole number, not '0'"),
    ("rows: a", "rows must be a list, not 'a'"),
    ("settings: [1, 2]", "settings must be a mapping, not [1, 2]"),
    ("row_settings: [a]", "row_settings must be a mapping, not ['a']"),
    ("row_settings: {a: 3}", "row_settings.a must be a mapping, not 3"),
    ("remark: 7", "remark must be text, not 7"),
    ("hours: {a: long}", "hours.a must be a number, not 'long'"),
    ("colour: 1", "tables.table_9_1: 'colour' is unknown; allowed: seeds, rows"),
]


def malformed(root: Path, change: str, plan: str = "") -> None:
    "Write a profile that is valid but for a line of it, or of its plan."
    lines = {"title": "T", "threads": "1", "jobs": "table", "changed": "remake"}
    seeds = "" if plan.startswith("seeds") else "seeds: [0], "
    lines["tables"] = f"{{table_9_1: {{{seeds}{plan}}}}}"
    if change:
        key, _, value = change.partition(": ")
        lines[key] = value
    text = "".join(f"{key}: {value}\n" for key, value in lines.items())
    (root / "config" / "toy.yaml").write_text(text)


CASES = [(c, "", w) for c, w in MALFORMED] + [("", p, w) for p, w in MALFORMED_PLANS]


@pytest.mark.parametrize("change, plan, words", CASES, ids=lambda x: x[:24])
def test_a_malformed_profile_is_refused_with_path_and_value(toy, capsys, change, plan, words):
    root, _ = toy
    malformed(root, change, plan)
    assert study.main(["table_9_1", "--profile", "toy"]) == 1
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: profile toy") and error.count("\n") == 1


def test_all_faults_of_a_profile_are_told_at_once(toy):
    root, _ = toy
    malformed(root, "threads: two", "seeds: 3")
    with pytest.raises(ValueError, match="threads must be .*; profile toy: tables.table_9_1.seeds"):
        spec.load_profile("toy")


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("{label: A}", "{label: 1}", "table_9_1: rows.a.label must be text, not 1"),
        ("{label: A}", "{key: b, label: A}", "table_9_1: rows.a: 'key' is unknown; allowed: label"),
        ("{label: A}", "A", "table_9_1: rows.a must be a mapping, not 'A'"),
        ("chapter: 9", "chapter: nine", "table_9_1: chapter must be a whole number, not 'nine'"),
        ("kind: table", "kind: tabel", "table_9_1: kind 'tabel' is unknown; allowed: table, fig"),
        ('number: "9.1"', "number: 9.1", "table_9_1: number must be text, not 9.1"),
        ("counted: true", "counted: 1", "columns.size.counted must be true or false, not 1"),
    ],
)
def test_a_malformed_table_is_refused_with_path_and_value(toy, old, new, words):
    path = toy[0] / "workflow" / "tables.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        spec.load_tables()
    assert words in str(error.value)


def test_a_table_without_experiment_cannot_be_planned(toy):
    root, _ = toy
    (root / "config" / "toy.yaml").write_text(
        "title: T\nthreads: 1\njobs: table\nchanged: mark\ntables: {table_9_2: {seeds: [0]}}\n"
    )
    with pytest.raises(ValueError, match="9.2 has no experiment yet"):
        spec.load_profile("toy")


def test_settings_come_in_their_order(toy):
    _, profile = toy
    profile(
        "{seeds: [0], settings: {size: 3}, column_settings: {large: {size: 4}}, row_settings: "
        "{b: {size: 5}}}"
    )
    table, plan = spec.load_tables()["table_9_1"], spec.load_profile("toy").tables["table_9_1"]
    sizes = {
        (r, c): spec.settings_of(table, plan, r, c).size for r in "ab" for c in ("value", "large")
    }
    assert sizes == {("a", "value"): 3, ("a", "large"): 4, ("b", "value"): 5, ("b", "large"): 5}


def test_committed_profiles_are_valid_and_name_real_settings():
    root = Path(__file__).parents[2]
    tables = spec.load_tables(root)
    for name in spec.PROFILES:
        profile = spec.load_profile(name, root)
        for key, plan in profile.tables.items():
            for r in plan.rows:
                assert rows.units_of(tables[key], plan, r)
    assert (
        spec.load_profile("quick", root).changed == "remake"
        and spec.load_profile("paper", root).changed == "mark"
    )


def test_a_nested_setting_is_merged_and_cleared(tmp_path, monkeypatch):
    (tmp_path / "nested_draws.py").write_text(NESTED)
    monkeypatch.syspath_prepend(tmp_path)
    rows_of = {"a": spec.RowSpec("a", "A", settings={"sampler": {"size": 5}})}
    columns = {"value": spec.Column("value", "Value", settings={"sampler": {"seed": 3}})}
    table = spec.Table(
        "t", "table", "9", 9, "T", experiment="nested_draws:draw", rows=rows_of, columns=columns
    )
    plan = spec.Plan((0,), ("a",), ("value",), settings={"sampler": {"size": 7}})
    sampler = spec.settings_of(table, plan, "a", "value").sampler
    assert (sampler.size, sampler.seed, sampler.kind) == (7, 3, "gauss")
    cleared = dataclasses.replace(plan, row_settings={"a": {"sampler": None}})
    assert spec.settings_of(table, cleared, "a", "value").sampler.size == 2
    wrong = dataclasses.replace(plan, settings={"sampler": {"sizes": 7}})
    with pytest.raises(ValueError, match="t, row a, column value: settings: sampler: 'sizes' is"):
        spec.settings_of(table, wrong, "a", "value")


NESTED = """
from dataclasses import dataclass
from effdl_nb.spec import experiment

@dataclass(frozen=True)
class Sampler:
    size: int = 1
    seed: int = 0
    kind: str = "gauss"

@dataclass(frozen=True)
class Settings:
    sampler: Sampler = Sampler(size=2)

@experiment(Settings)
def draw(task):
    return {}
"""


def test_an_experiment_can_build_its_settings_itself():
    @dataclasses.dataclass(frozen=True)
    class Own:
        size: int = 1

        @classmethod
        def build(cls, where, row, content):
            return cls(10 * content["size"])

    own = spec.experiment(Own)(lambda task: {}).experiment
    assert own.build("here", "a", {"size": 2}) == Own(20) and own.origins is None
    given = spec.experiment(Own, build=lambda where, row, content: row)(lambda task: {}).experiment
    assert given.build("here", "a", {}) == "a"


def every_unit(profile: str):
    "The units of a profile, seed by seed."
    tables, plans = spec.load_tables(), spec.load_profile(profile).tables
    for key, plan in plans.items():
        for row in plan.rows:
            yield from rows.units_of(tables[key], plan, row)


@pytest.mark.parametrize("name", spec.PROFILES)
def test_the_code_of_every_committed_row_can_be_followed(name):
    codes = {(unit.table, unit.row): unit.code for unit in every_unit(name)}
    assert all(len(code) == 16 for code in codes.values())
    assert codes["table_2_2", "v1"] != codes["table_3_2", "deepaa"] != codes["table_4_1", "iatm"]


def test_every_setting_of_every_row_can_be_explained():
    for key, plan in spec.load_profile("quick").tables.items():
        for row in plan.rows:
            column = plan.columns[0]
            settings = spec.settings_of(spec.table_named(key), plan, row, column)
            name = dataclasses.fields(settings)[0].name
            assert f"{name} = {getattr(settings, name)}" in spec.explain(key, row, name)


@pytest.mark.parametrize(
    "asked, words",
    [
        (("table_9_3", "a", "size"), "table 'table_9_3' is unknown; allowed: table_9_1"),
        (("table_9_1", "c", "size"), "row 'c' is unknown; allowed: a, b"),
        (("table_9_1", "a", "sizes"), "setting 'sizes' is unknown; allowed: size, bad"),
        (("table_9_1", "a", "size", "toy", "small"), "column 'small' is unknown; allowed: value"),
    ],
)
def test_what_cannot_be_explained_is_named(toy, asked, words):
    table, row, name, profile, column = (*asked, "toy", None)[:5]
    with pytest.raises(ValueError, match=words):
        spec.explain(table, row, name, profile, column)


def test_a_setting_is_explained_layer_by_layer(toy):
    _, profile = toy
    profile("{seeds: [0], settings: {size: 3}, column_settings: {large: {size: 4}}}")
    assert spec.explain("table_9_1", "a", "size", "toy", "large").splitlines() == [
        "table_9_1, row a, profile toy, column large",
        "size = 4",
        "    1    default of Settings",
        "    100  workflow/tables.yaml: table_9_1.columns.large.settings.size",
        "    3    config/toy.yaml: table_9_1.settings.size",
        "  > 4    config/toy.yaml: table_9_1.column_settings.large.size",
    ]
    every = spec.explain("table_9_1", "b", "size", "toy")
    assert "column value, size\nsize = 3" in every and "column large\nsize = 4" in every


def test_a_function_that_is_no_experiment_is_named(tmp_path, monkeypatch):
    (tmp_path / "plain_draws.py").write_text("def draw(task):\n    return {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = spec.Table("t", "table", "9", 9, "T", experiment="plain_draws:draw")
    with pytest.raises(ValueError, match="plain_draws:draw is no experiment; declare it by"):
        spec.experiment_of(table)
