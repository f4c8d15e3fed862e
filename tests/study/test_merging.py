"Rows of two machines: seeds join, contradictions are kept apart, and nothing is lost or doubled."

import json
from pathlib import Path

import pytest

from effdl_nb import study
from effdl_nb.files import KeptError, read_kept, write_kept
from effdl_nb.merging import main, merge_reports
from effdl_nb.rows import place, read_row
from effdl_nb.spec import load_profile


@pytest.fixture
def two(toy, tmp_path):
    "The toy study, and reports folders of two machines."
    return tmp_path / "here", tmp_path / "there"


def row(reports: Path, key: str = "a") -> Path:
    return place(load_profile("toy"), reports).row("table_9_1", key)


def measure(reports: Path, seeds: str, rows: str = "a") -> None:
    study.run("table_9_1", "toy", rows=rows, reports=reports, seeds=seeds, say=str)


def test_seeds_of_two_machines_make_one_row(two):
    here, there = two
    seeds = load_profile("toy").tables["table_9_1"].seeds
    measure(here, str(seeds[0]))
    measure(there, ",".join(map(str, seeds[1:])))
    merged = merge_reports(there, "toy", here)
    assert len(merged.joined) >= len(seeds) - 1 and not merged.apart
    whole = read_row(row(here))
    assert {m["seed"] for m in whole["measurements"]} == set(seeds)
    alone = here.parent / "alone"
    measure(alone, "all")
    cells = [
        [(c["column"], c["mean"], c["spread"], c["n"]) for c in read_row(row(f))["cells"]]
        for f in (here, alone)
    ]
    assert cells[0] == cells[1]


def test_merging_twice_changes_nothing(two):
    here, there = two
    measure(there, "all", "all")
    merge_reports(there, "toy", here)
    before = {path: path.read_bytes() for path in here.rglob("*.json")}
    again = merge_reports(there, "toy", here)
    assert not again.joined and not again.apart and again.same
    assert {path: path.read_bytes() for path in here.rglob("*.json")} == before


def test_a_contradiction_is_named_and_kept_apart_once(two):
    here, there = two
    measure(here, "all")
    measure(there, "all")
    before = row(here).read_bytes()
    record = read_kept(row(there))
    for measurement in record["measurements"]:
        measurement["metrics"]["value"] = [99.0, 98.0]
        measurement["provenance"]["processor_kind"] = "Another, AMX"
    write_kept(row(there), record)
    for _ in range(2):
        merged = merge_reports(there, "toy", here)
        assert len(merged.apart) == len(record["measurements"])
        assert all("value differ" in line and "Another, AMX" in line for line in merged.apart)
    assert row(here).read_bytes() == before
    kept = list((here / "toy" / "apart").rglob("*.json"))
    assert len(kept) == len(record["measurements"])
    assert all(read_kept(path)["metrics"]["value"] == [99.0, 98.0] for path in kept)


def test_measurements_of_other_settings_are_named_and_left(two, toy):
    here, there = two
    _, profile = toy
    profile("{seeds: [0, 1], settings: {size: 3}}")
    measure(there, "all")
    profile()
    merged = merge_reports(there, "toy", here)
    assert merged.unknown and merged.joined == merged.same == []
    assert all("seed" in line for line in merged.unknown)


def test_a_damaged_row_is_named_and_nothing_is_written(two):
    here, there = two
    measure(there, "all")
    text = row(there).read_text()
    row(there).write_text(text.replace('"metrics"', '"metrix"', 1))
    with pytest.raises(KeptError, match=str(row(there))):
        merge_reports(there, "toy", here)
    assert not list(here.rglob("rows/**/*.json"))


def test_the_command(two, capsys):
    here, there = two
    measure(there, "all")
    assert main([str(there), "--profile", "toy", "--reports", str(here)]) == 0
    assert "joined" in capsys.readouterr().out
    assert json.loads(row(here).read_text())["measurements"]
    assert main([str(there / "nowhere"), "--profile", "toy", "--reports", str(here)]) in (1, 2)
    assert "nowhere" in capsys.readouterr().err
