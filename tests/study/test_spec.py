"Tables, plans and profiles say what is run, and raise errors for what they do not know."

import dataclasses
from pathlib import Path

import pytest

from effdl_nb import rows, spec


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


def test_a_table_without_experiment_cannot_be_planned(toy):
    root, _ = toy
    (root / "workflow" / "profiles" / "toy.yaml").write_text(
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


