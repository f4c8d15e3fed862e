"""The dissertation's values (workflow/thesis.yaml) and its tables and figures (tables.yaml).

Three kinds of check: the files agree with each other; the values obey the arithmetic the
dissertation itself states; and, where its text is at hand, every cell equals the one that stands at
its place in the text, read there by a parser that knows nothing of the YAML.
"""

import re
from pathlib import Path

import pytest
import yaml

from effdl_nb.spec import implemented_rows, load_tables

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT.parent / "shared" / "thesis" / "thesis.txt"
needs_text = pytest.mark.skipif(
    not TEXT.exists(), reason="the dissertation's text (../shared/thesis/thesis.txt) is not here"
)

# Order of appearance in the dissertation, by page.
ORDER = (
    "table_2_1 table_2_2 table_2_3 figure_3_1 table_3_1 table_3_2 table_3_3 table_3_4 figure_3_2 "
    "table_3_5 table_3_6 table_3_7 figure_3_3 figure_3_4 "
    "figure_3_5 figure_3_6 table_3_8 figure_3_7 figure_4_1 figure_4_2 figure_4_3 table_4_1 "
    "table_4_2 table_4_3 table_4_4 "
    "figure_4_4 figure_4_5 figure_4_6 figure_4_7"
).split()
TABLES = [name for name in ORDER if name.startswith("table")]
OURS = {  # rows this study adds
    "table_2_1": ["v1_released", "v2_released", "v3_released"],
    "table_2_3": ["float"],
    "table_3_2": ["none"],
    "table_3_3": ["deepaa_simple"],
    "table_3_6": [f"deep_ta_{k}" for k in range(1, 7)],
    "table_4_1": ["full", "kip"],
}
_TRAINED = ["flops_trained", "params_trained", "score_trained"]
OUR_COLUMNS = {  # columns this study adds
    "table_2_1": ["sparse_depthwise", "parameters"],
    "table_2_2": ["score_official", *_TRAINED],
    "table_2_3": ["score", *_TRAINED],
    "table_3_5": ["passes"],
}
# methods are columns in the dissertation
TRANSPOSED = {"table_3_2", "table_3_3", "table_3_4", "table_3_5", "table_3_6", "table_3_7"}
CORRECTED = {
    ("table_2_2", "v1", "params"),
    ("table_4_1", "ld", "cifar10_ipc10"),
    ("table_4_1", "cafe", "cifar10_ipc10"),
    ("table_4_1", "cafe", "cifar100_ipc10"),
    ("table_4_1", "mtt", "cifar10_ipc1"),
    ("table_4_2", "random", "tiny_imagenet_ipc50"),
}


class _UniqueKeys(yaml.SafeLoader):
    "YAML lets a later key replace an earlier one silently; here that is an error."

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), (
            f"repeated key at line {node.start_mark.line + 1}: "
            f"{sorted(k for k in keys if keys.count(k) > 1)}"
        )
        return super().construct_mapping(node, deep=deep)


def _load(name):
    return yaml.load((ROOT / "workflow" / name).read_text(encoding="utf-8"), Loader=_UniqueKeys)


THESIS = _load("thesis.yaml")
SPEC = _load("tables.yaml")
# tables that this study adds, after those of their chapter
ADDED = [name for name in SPEC if name not in ORDER]


def _take(cell, which="corrected"):
    "The printed or the corrected form of a cell; most have only one."
    return cell[which] if isinstance(cell, dict) else cell


def _mean(cell, which="corrected"):
    cell = _take(cell, which)
    return cell[0] if isinstance(cell, list) else cell


def _values(table):
    return THESIS[table]["values"]


# The files, by themselves and against each other


def test_every_table_and_figure_in_order():
    assert [name for name in SPEC if name not in ADDED] == ORDER
    assert list(THESIS) == TABLES
    chapters = [item["chapter"] for item in SPEC.values()]
    assert chapters == sorted(chapters)
    for name in ORDER:
        item, (kind, chapter, number) = SPEC[name], name.split("_")
        assert (item["kind"], item["chapter"], item["number"]) == (
            kind,
            int(chapter),
            f"{chapter}.{number}",
        ), name


REQUIRED = {
    "table": {
        "kind",
        "number",
        "chapter",
        "title",
        "protocol",
        "spread",
        "row_head",
        "rows",
        "columns",
    }
}
REQUIRED["figure"] = {"kind", "number", "chapter", "title", "protocol"}
OPTIONAL = {"table": {"experiment", "notes"}, "figure": {"tables", "drawn_by", "notes"}}


@pytest.mark.parametrize("name", ORDER + ADDED)
def test_only_allowed_keys(name):
    item = SPEC[name]
    kind = item["kind"]
    assert REQUIRED[kind] <= set(item) <= REQUIRED[kind] | OPTIONAL[kind]
    assert item["title"].strip() and item["protocol"].strip()
    assert all(isinstance(note, str) and note.strip() for note in item.get("notes", []))
    if kind == "figure":
        assert all(table in TABLES for table in item.get("tables", []))
        return
    assert item["spread"] in {"deviation", "interval", "none"}
    for row in item["rows"].values():
        assert {"label"} <= set(row) <= {"label", "settings", "note", "quoted"} and isinstance(
            row["label"], str
        )
    for column in item["columns"].values():
        assert (
            {"label"}
            <= set(column)
            <= {"label", "unit", "metric", "scale", "digits", "better", "counted", "settings"}
        )
        assert isinstance(column["label"], str)
        if "metric" not in column:
            assert set(column) <= {"label", "unit"}, (
                "a column that is not measured says nothing of measuring"
            )
        else:
            assert isinstance(column["digits"], int) and column.get("better") in {
                None,
                "higher",
                "lower",
            }
            assert isinstance(column.get("scale", 1.0), float) and isinstance(
                column.get("counted", False), bool
            )
    labels = (
        [row["label"] for row in item["rows"].values()],
        [column["label"] for column in item["columns"].values()],
    )
    assert all(len(found) == len(set(found)) for found in labels), (
        "two rows or columns share a label"
    )


def test_experiments_of_the_measured_tables():
    found = {name: item["experiment"] for name, item in SPEC.items() if "experiment" in item}
    assert found.keys() >= {"table_2_3", "table_3_2", "table_4_1"}
    for name, experiment in found.items():
        assert re.fullmatch(
            r"effdl_nb\.(msunet|deepaa|condensation)\.(experiments|judging):\w+", experiment
        ), name


@pytest.mark.parametrize("table", TABLES)
def test_rows_and_columns_agree(table):
    rows = [row for row in SPEC[table]["rows"] if row not in OURS.get(table, [])]
    assert list(_values(table)) == rows
    assert not set(OURS.get(table, [])) - set(SPEC[table]["rows"])
    for row, cells in _values(table).items():
        assert list(cells) == list(SPEC[table]["columns"]), row


def _well_formed(cell, spread):
    if isinstance(cell, list):
        assert (
            spread != "none"
            and len(cell) == 2
            and all(isinstance(x, int | float) for x in cell)
            and cell[1] > 0
        )
    else:
        assert cell is None or isinstance(cell, bool | int | float | str)


@pytest.mark.parametrize("table", TABLES)
def test_form_of_every_cell(table):
    spread = SPEC[table]["spread"]
    for row, cells in _values(table).items():
        for name, cell in cells.items():
            where, column = (table, row, name), SPEC[table]["columns"][name]
            assert isinstance(cell, dict) == (where in CORRECTED), where
            if isinstance(cell, dict):
                assert (
                    list(cell) == ["printed", "corrected", "why"]
                    and cell["printed"] != cell["corrected"]
                    and cell["why"].strip()
                ), where
                assert isinstance(cell["printed"], list) == isinstance(cell["corrected"], list), (
                    where
                )
            for value in (_take(cell, "printed"), _take(cell)):
                _well_formed(value, spread)
                # a tick says that it is there, ours how much of it
                if "metric" in column and value is not None and not isinstance(value, bool):
                    if isinstance(value, str):
                        assert column.get("counted"), f"{where}: a word where numbers are measured"
                        continue
                    assert round(_mean(value), column["digits"]) == _mean(value), (
                        f"{where}: fewer digits shown than the dissertation prints"
                    )
                    assert column.get("unit") != "%" or 0 < _mean(value) <= 100, where
                if spread == "deviation":  # there, every value was measured over runs
                    assert value is None or isinstance(value, list), where


# Arithmetic that the dissertation states or implies


def _misses_score(row, which):
    "Distance of Eq 2.8 from the printed score, in units of what rounding can explain."
    flops, params, score = (_take(row[key], which) for key in ("flops", "params", "score"))
    half = {
        key: 0.5 * 10.0 ** -len(repr(value).partition(".")[2])
        for key, value in zip("fps", (flops, params, score), strict=True)
    }
    return abs(flops / 10.49e3 + params / 36.5 - score) / (
        half["f"] / 10.49e3 + half["p"] / 36.5 + half["s"]
    )


@pytest.mark.parametrize("row", ["v0", "v1", "v2", "v3"])
def test_score_follows_from_the_corrected_row(row):
    assert _misses_score(_values("table_2_2")[row], "corrected") <= 1


def test_printed_parameters_of_v1_contradict_its_score():
    # 118.6/10490 + 0.2199/36.5 = 0.01733, the row prints 0.01711: 20 times what rounding explains.
    assert _misses_score(_values("table_2_2")["v1"], "printed") > 10


def test_ternary_row_is_v0():
    ternary, v0 = _values("table_2_3")["ternary"], _values("table_2_2")["v0"]
    assert all(ternary[column] == v0[column] for column in ("accuracy", "flops", "params"))


def test_configuration_adds_one_technique_a_row():
    assert [sum(map(bool, row.values())) for row in _values("table_2_1").values()] == [1, 2, 3, 4]


def test_search_space_has_139_transformations():
    ranges = {row: cells["magnitude"] for row, cells in _values("table_3_1").items()}
    levelled = [row for row, text in ranges.items() if text and text.startswith("[")]
    assert (len(ranges), len(levelled)) == (18, 11)
    assert 12 * len(levelled) + len(ranges) - len(levelled) == 139
    for row in levelled:
        low, high = yaml.safe_load(ranges[row])
        assert low < high, row


def test_notes_on_table_3_2():
    rows = _values("table_3_2")
    standard = [row for row in rows if row not in {"ta_wide", "deepaa"}]
    best = {
        c: max((_mean(rows[r][c]), r) for r in standard if rows[r][c] is not None)
        for c in SPEC["table_3_2"]["columns"]
    }
    beaten = [
        column for column, (value, _) in best.items() if value > _mean(rows["deepaa"][column])
    ]
    assert beaten == ["cifar100_shake_shake"] and best["cifar100_shake_shake"] == (85.7, "aa")
    wide_ahead = [
        column for column in best if rows["ta_wide"][column] > _mean(rows["deepaa"][column])
    ]
    assert len(wide_ahead) == 3


def test_number_of_layers_meets_the_main_tables():
    five, main = _values("table_3_6")["layers_5"], _values("table_3_2")["deepaa"]
    assert (five["cifar10"], five["cifar100"]) == (
        main["cifar10_wrn_28_10"],
        main["cifar100_wrn_28_10"],
    )
    assert _values("table_3_7")["layers_5"] == {
        "imagenet_resnet_50": _values("table_3_3")["deepaa"]["imagenet_resnet_50"]
    }
    assert _values("table_3_7")["layers_5"] == _values("table_3_7")["layers_7"]


def test_note_on_intervals_of_table_3_4():
    rows = _values("table_3_4")

    def overlaps(row, column):
        (a, da), (b, db) = rows[row][column], rows["deepaa"][column]
        return abs(a - b) <= da + db + 1e-9

    others = ["adv_aa", "ta_wide_paper", "ta_wide"]
    assert [overlaps(row, "cifar10") for row in others] == [True, True, True]
    assert [overlaps(row, "cifar100") for row in others] == [False, False, True]


def test_more_images_never_hurt_once_corrected():
    def falls(which):
        found = []
        for table in ("table_4_1", "table_4_2"):
            for row, cells in _values(table).items():
                for dataset in {column.rpartition("_")[0] for column in cells}:
                    means = [_mean(cells[f"{dataset}_ipc{ipc}"], which) for ipc in (1, 10, 50)]
                    means = [mean for mean in means if mean is not None]
                    found += [(table, row)] if means != sorted(means) else []
        return found

    assert falls("corrected") == []
    assert falls("printed") == [("table_4_2", "random")]


def test_note_on_the_gain_over_mtt():
    rows = _values("table_4_1")
    ours, deviation = rows["iatm"]["cifar10_ipc1"]
    mtt = rows["mtt"]["cifar10_ipc1"]
    assert round(ours - _mean(mtt), 1) == 0.2 < min(deviation, mtt["corrected"][1])
    assert round(ours - _mean(mtt, "printed"), 1) == 2.9


def test_schedule_of_table_4_3():
    classes = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}
    for name, row in _values("table_4_3").items():
        dataset, _, ipc = name.rpartition("_ipc")
        assert row["t_minus"] <= row["t"] <= row["t_plus"], name
        assert (row["interval"] is None) == (row["t"] == row["t_plus"]), (
            "an interval stands exactly where the bound has room to grow"
        )
        assert row["batch"] <= int(ipc) * classes[dataset], (
            "a batch cannot exceed the condensed set"
        )
        deeper = {"network": "convnet-4"} if dataset == "tiny_imagenet" else {}
        assert SPEC["table_4_3"]["rows"][name]["settings"] == {
            "dataset": dataset.replace("_", "-"),
            "ipc": int(ipc),
            **deeper,
        }


def test_convnet_column_repeats_table_4_1():
    for row, cells in _values("table_4_4").items():
        assert cells["convnet"] == _mean(_values("table_4_1")[row]["cifar100_ipc50"]), row


# Against the text


def _plain(cell):
    "A cell without markup: <b>71.6 ± 0.2</b>, $1.5 \\pm 0.4$, 80.61 % -> '71.6 ± 0.2', '80.61'."
    cell = (
        re.sub(r"<sup>.*?</sup>|<[^>]+>|\$", "", cell).replace(r"\pm", "±").replace(r"\times", "x")
    )
    return " ".join(re.sub(r"(?<=\d)\s*(%|M)$", "", cell.strip()).split())


def _grid(text, number):
    "Rows of the table above 'Table <number> ...': the last block of tab-separated lines."
    lines = text.splitlines()
    caption = max(n for n, line in enumerate(lines) if line.startswith(f"Table {number} "))
    last = max(n for n in range(caption) if "\t" in lines[n])
    first = max(n for n in range(last) if not lines[n].strip()) + 1
    return [
        [_plain(cell) for cell in line.split("\t")]
        for line in lines[first : last + 1]
        if "\t" in line
    ]


def _read(cell):
    "The value of a cell of the text, in the forms thesis.yaml uses."
    if cell in {"", "-", "✓"}:
        return {"": False, "-": None, "✓": True}[cell]
    number = r"-?\d+(?:\.\d+)?"
    if found := re.fullmatch(rf"({number}) ± ({number})", cell):
        return [float(found[1]), float(found[2])]
    return float(cell) if re.fullmatch(number, cell) else cell


HEAD_LINES = {"table_4_1": 2, "table_4_2": 2}
LABELS = {"table_3_8": 2, "table_4_3": 2}


@needs_text
@pytest.mark.parametrize("table", TABLES)
def test_every_cell_stands_at_its_place_in_the_text(table):
    grid = _grid(TEXT.read_text(encoding="utf-8"), SPEC[table]["number"])[
        HEAD_LINES.get(table, 1) :
    ]
    labels = LABELS.get(table, 1)
    grid = [line for line in grid if any(line[labels:])]  # not the lines that only name a data set
    width = max(len(line) for line in grid)
    found = [
        [_read(cell) for cell in (line + [""] * (width - len(line)))[labels:]] for line in grid
    ]
    columns = [c for c in SPEC[table]["columns"] if c not in OUR_COLUMNS.get(table, [])]
    expected = [
        [_take(cells[column], "printed") for column in columns] for cells in _values(table).values()
    ]
    if table in TRANSPOSED:
        expected = [list(line) for line in zip(*expected, strict=True)]
    assert found == expected


@needs_text
def test_order_is_that_of_the_captions():
    text = TEXT.read_text(encoding="utf-8")
    captions = {}
    # the lists at the front have a tab after the number
    for found in re.finditer(r"^(Table|Figure) (\d)\.(\d) ", text, flags=re.M):
        captions[f"{found[1].lower()}_{found[2]}_{found[3]}"] = found.start()
    assert set(captions) == set(ORDER)
    assert sorted(captions, key=captions.get) == ORDER


@needs_text
def test_text_agrees_with_the_notes():
    text = " ".join(TEXT.read_text(encoding="utf-8").split())
    assert (
        "0.22% performance drop compared to DeepAA" in text
        and round(_values("table_3_3")["deepaa"]["imagenet_resnet_50"][0] - 0.22, 2) == 78.08
    )
    v2, v3 = (_values("table_2_2")[row]["accuracy"] for row in ("v2", "v3"))
    assert "accuracy drop of 0.17%" in text and round(v2 - v3, 2) == 0.17
    assert "achieves 77.55% top-1" in text and "achieves 77.97% top-1" in text
    assert (
        "numbers of augmentation layers" in text
        and "reach peak performance at the sixth layer" in text
    )
    assert "neural tangent kernel based methods [86, 87] (KIP)" in text and "kip" not in {
        *_values("table_4_1"),
        *_values("table_4_2"),
    }
    section = text.partition("#### 4.4.3 ")[2].partition("#### 4.4.4 ")[0]
    assert "Table 4.1 reports" in section and "Table 4.2 reports" not in section


def test_every_row_of_a_measured_table_can_be_measured_or_says_that_it_is_quoted():
    tables = load_tables()
    for table in tables.values():
        if table.experiment:
            able = set(implemented_rows(table))
            quoted = {row for row, spec in table.rows.items() if spec.quoted}
            assert able | quoted == set(table.rows) and not able & quoted, table.key
