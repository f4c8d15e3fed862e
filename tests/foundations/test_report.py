"The report shows what the rows hold, and nothing else."

import html.parser
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from effdl_nb import report, study
from effdl_nb.files import write_json

ROOT = Path(__file__).parents[2]


class Checker(html.parser.HTMLParser):
    "Every opened element is closed in order; collects links, sources and ids."

    VOID = {"meta", "img", "br", "link"}

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids = [], [], set()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes["id"]} if "id" in attributes else set()
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


@pytest.fixture
def empty_page(tmp_path, monkeypatch) -> tuple[Path, str]:
    monkeypatch.setenv("EFFDL_ROOT", str(ROOT))
    path = report.write_report("quick", tmp_path)
    return path, path.read_text()


def test_every_table_and_figure_has_its_place(empty_page):
    path, page = empty_page
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    keys = list(study.load_tables(ROOT))
    assert [key for key in keys if key not in checker.ids] == []
    places = [page.index(f'id="{key}"') for key in keys]
    assert places == sorted(places), "not in the order of the dissertation"
    for link in checker.links:
        assert link.startswith("#") and link[1:] in checker.ids or (path.parent / link).exists(), (
            f"dead link {link}"
        )
    assert "http" not in "".join(checker.links), "the page must be whole without a network"


def test_nothing_measured_means_no_value_of_ours(empty_page):
    path, page = empty_page
    for table in study.load_tables(ROOT).values():
        if table.kind == "table":
            frame = pd.read_csv(path.parent / "tables" / f"{table.key}.csv")
            assert frame.ours.isna().all() and not frame.state.isin(["measured", "changed"]).any()
    assert not list((path.parent).glob("figures/*.png"))
    assert "quoted, not re-made" in page and "not implemented yet" not in page


def test_thesis_values_are_shown_as_printed_and_corrected(empty_page):
    path, _ = empty_page
    text = (path.parent / "tables" / "table_2_2.md").read_text()
    assert "0.21190 (printed 0.21990)" in text
    text = (path.parent / "tables" / "table_4_1.md").read_text()
    assert "46.3 (printed 43.6 ± 0.8)" in text and "65.9 ± 0.6" in text


TABLES = """
table_9_1:
  kind: table
  number: "9.1"
  chapter: 9
  title: Draws
  spread: deviation
  row_head: Coin
  experiment: report_toy:draw
  rows: {a: {label: "A | B"}, b: {label: B}}
  columns:
    value: {label: Value, unit: "%", metric: value, digits: 1}
    other: {label: Other, metric: value, digits: 3}
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    for folder in ("workflow", "config"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "workflow" / "tables.yaml").write_text(TABLES)
    (tmp_path / "workflow" / "thesis.yaml").write_text("table_9_1: {values: {a: {value: 60.0}}}")
    (tmp_path / "config" / "toy.yaml").write_text(
        "title: T\nthreads: 1\njobs: table\nchanged: remake\ntables: {table_9_1: {seeds: [0, 1], "
        "columns: [value]}}\n"
    )
    (tmp_path / "report_toy.py").write_text(
        "from dataclasses import dataclass\n"
        "from effdl_nb.spec import experiment\n"
        "@dataclass(frozen=True)\n"
        "class Settings:\n"
        "    size: int = 1\n"
        "@experiment(Settings)\n"
        "def draw(task):\n"
        "    return {'value': [50.0 + task.seed, 52.0 + task.seed]}\n"
    )
    monkeypatch.setenv("EFFDL_ROOT", str(tmp_path))
    monkeypatch.setenv("EFFDL_REPORTS", "")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("report_toy", None)
    study.run("table_9_1", "toy", say=lambda line: None).check()
    yield tmp_path
    sys.modules.pop("report_toy", None)


def test_the_three_forms_of_a_table_agree(toy):
    rendered = report.write_table("table_9_1", "toy")
    folder = toy / "reports" / "toy" / "tables"
    frame = pd.read_csv(folder / "table_9_1.csv")
    cell = frame[(frame.row == "a") & (frame.column == "value")].iloc[0]
    # 50, 52, 51, 53: mean 51.5, sample deviation sqrt(5/3) = 1.291
    assert (
        cell.ours == 51.5
        and abs(cell.spread - 1.2910) < 1e-4
        and cell.n == 4
        and cell.difference == -8.5
    )
    for text in (rendered.markdown, rendered.html):
        assert "51.5 ± 1.3" in text and "−8.5" in text and "60.0" in text
    assert rendered.html == (folder / "table_9_1.html").read_text()
    assert "Not run at this profile: Other" in rendered.html
    assert set(frame[frame.column == "other"].state) == {"not run at this profile"}


def test_a_bar_in_a_label_does_not_break_the_markdown(toy):
    line = next(
        line
        for line in report.write_table("table_9_1", "toy").markdown.splitlines()
        if line.startswith("| A")
    )
    assert len(re.findall(r"(?<!\\)\|", line)) == 6


def test_figures_hold_what_they_plot(toy):
    report.write_table("table_9_1", "toy")
    folder = toy / "reports" / "toy" / "figures"
    assert pd.read_csv(folder / "table_9_1.csv").ours.tolist() == [51.5, 51.5]
    svg = (folder / "table_9_1.svg").read_text()
    assert "thesis (full protocol)" in svg and "ours" in svg


def test_heads_of_panels_stay_inside_and_apart(toy):
    path = toy / "config" / "toy.yaml"
    path.write_text(path.read_text().replace("columns: [value]", "columns: [value, other]"))
    study.run("table_9_1", "toy", say=lambda line: None).check()
    profile, table = study.load_profile("toy"), study.load_tables()["table_9_1"]
    frame = report.cells(table, profile, study.place(profile)).assign(
        here="dataset cifar10-sample, search_network small-convnet, ipc 1"
    )
    figure = report.plot_table(table, frame)
    figure.draw_without_rendering()
    one, other = (axis.title.get_window_extent() for axis in figure.axes)
    assert (
        not one.overlaps(other)
        and one.x0 >= 0
        and other.x1 <= figure.bbox.x1
        and one.y1 <= figure.bbox.y1
    )


def test_a_word_stands_for_itself(toy, monkeypatch):
    (toy / "report_toy.py").write_text(
        (toy / "report_toy.py")
        .read_text()
        .replace("[50.0 + task.seed, 52.0 + task.seed]", "'crop | flip'")
    )
    tables = toy / "workflow" / "tables.yaml"
    tables.write_text(TABLES.replace('unit: "%", metric: value', "counted: true, metric: value"))
    sys.modules.pop("report_toy", None)
    study.run("table_9_1", "toy", remake=True, say=lambda line: None).check()
    rendered = report.write_table("table_9_1", "toy")
    assert rendered.picture is None and set(
        rendered.frame[rendered.frame.column == "value"].ours
    ) == {"crop | flip"}
    assert (
        "| crop \\| flip | 1 | 60.0 | – |" in rendered.markdown and "crop | flip" in rendered.html
    )
    tables.write_text(TABLES)  # a word where numbers are due
    shutil.rmtree(toy / "reports" / "toy" / "rows")
    with pytest.raises(study.RowsFailed, match="crop"):
        study.run("table_9_1", "toy", remake=True, say=lambda line: None).check()


def test_a_row_of_which_one_column_is_measured(toy):
    path = toy / "config" / "toy.yaml"
    path.write_text(
        path.read_text().replace(
            "columns: [value]}", "columns: [value, other], column_settings: {other: {size: 2}}}"
        )
    )
    frame = report.write_table("table_9_1", "toy").frame
    assert [tuple(line) for line in frame[["row", "column", "state"]].values] == [
        ("a", "value", "measured"),
        ("a", "other", "missing"),
        ("b", "value", "measured"),
        ("b", "other", "missing"),
    ]
    assert frame[frame.column == "other"].ours.isna().all() and set(
        frame[frame.column == "value"].ours
    ) == {51.5}
    page = report.write_report("toy").read_text()
    assert "0 of 2 rows so far, 2 in part" in page and "51.5 ± 1.3" in page


def test_an_unknown_figure_raises(toy):
    with pytest.raises(ValueError, match="figure 'figure_1_1' is unknown"):
        report.write_figure("figure_1_1", None, pd.DataFrame(), "toy")


def test_an_old_failure_does_not_outlive_its_row(toy):
    at = study.place(study.load_profile("toy"))
    write_json(at.failure("table_9_1", "a"), {"row": "a", "error": "long ago"})
    assert "long ago" not in report.write_report("toy").read_text()


def test_a_report_can_be_made_from_another_folder(toy, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert report.main(["--profile", "toy"]) == 0
    assert not os.listdir()
