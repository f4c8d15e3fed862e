"The page of costs: it is what the plan says, and tells what is assumed."

import re

import pytest

from effdl_nb.budget import estimates
from effdl_nb.budget.devices import assumed_speeds
from effdl_nb.budget.page import GPU, GPU_BYTES, shown_hours
from effdl_nb.budget.passes import Work
from effdl_nb.provenance import project_root
from effdl_nb.spec import load_profile, load_tables

PAGE = (project_root() / "reports" / "COSTS.md").read_text(encoding="utf-8")
PAPER = load_profile("paper")


def cells(table: str, row: str) -> list[str]:
    "The line of a row on the committed page."
    section = PAGE.split(f"### Table {load_tables()[table].number}: ")[1].split("\n### ")[0]
    (line,) = [x for x in section.splitlines() if x.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("table", PAPER.tables)
def test_the_committed_page_has_every_row(table):
    section = PAGE.split(f"### Table {load_tables()[table].number}: ")[1].split("\n### ")[0]
    if "no image passes" not in section:
        rows = re.findall(r"^\| (\w+) \|", section, re.MULTILINE)
        assert tuple(row for row in rows if row != "Row") == PAPER.tables[table].rows


@pytest.mark.parametrize(
    "table, row",
    [("table_2_2", "v1"), ("table_3_2", "none"), ("table_3_4", "ta_wide"), ("table_4_1", "dm")],
)
def test_the_committed_page_is_up_to_date_in_one_row_of_each_kind(table, row):
    speeds = assumed_speeds(GPU)
    part = estimates.estimated(estimates.part_of(PAPER, table, row), speeds, GPU_BYTES)
    _, number, passes, flops, memory, *hours = cells(table, row)
    assert int(number) == part.measurements
    assert passes.removeprefix("≤ ") == f"{part.passes / 1e6:,.1f}"
    assert flops == shown_hours(part.flops / 1e15)
    assert memory.split()[0] == f"{part.memory / 1e9:,.1f}"
    assert hours[:3] == [shown_hours(part.hours[n]) for n in (1, 8, 64)]


def test_what_is_assumed_is_called_so_and_measured_rows_have_ratios():
    assert "No GPU has been measured by this study" in PAGE
    for line in PAGE.splitlines():
        if line.startswith("| A100") or line.startswith("| H200"):
            assert "| assumed |" in line
    section = PAGE.split("## Beside what was measured")[1].split("\n## ")[0]
    lines = [x for x in section.splitlines() if x.startswith("| laptop")]
    ratios = [line.split("|")[5].strip() for line in lines]
    assert len(lines) > 20 and all(re.fullmatch(r"\d+\.\d\d|not known", r) for r in ratios)
    last = [line.split("|")[-2].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    assert "fixes a speed" in last
    assert re.fullmatch(r"\d+\.\d\d", cells("table_4_1", "dsa")[-1])


def test_a_cut_saves_what_it_leaves_out_and_loses_its_cells():
    speeds = {"training": 1.0, "search": 1.0, "msunet": 1.0, "experts": 1.0} | {
        "judging": 1.0,
        "condensing": 1.0,
    }
    part = estimates.part_of(PAPER, "table_3_4")
    cut = next(c for c in estimates.CUTS if c.what.startswith("seeds"))
    whole, rest = (
        sum(w.flops for w in estimates.distinct_works(p)) for p in (part, cut.apply(part))
    )
    saved = estimates.saving(cut, part, speeds, {})
    assert saved.share == pytest.approx(1 - rest / whole) and saved.cells == 0
    copies = next(c for c in estimates.CUTS if "Table 3.4" in c.what)
    assert "table_3_4" not in copies.apply(PAPER).tables
    assert isinstance(estimates.distinct_works(part)[0], Work)


def test_twins_are_the_rows_that_the_tables_notes_call_the_same():
    groups = [{f"{u.table}/{u.row}" for u in group} for group in estimates.twins(PAPER)]
    assert {"table_3_2/deepaa", "table_3_6/layers_5"} in groups
    assert {"table_3_3/deepaa", "table_3_7/layers_5"} in groups
    assert not any(
        "table_3_2/deepaa" in group and "table_3_6/deep_ta_5" in group for group in groups
    )


@pytest.mark.parametrize("hours, text", [(0, "0"), (80_543, "80,500"), (1.234, "1.23")])
def test_hours_have_three_digits(hours, text):
    assert shown_hours(hours) == text
