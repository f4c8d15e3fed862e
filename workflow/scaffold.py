#!/usr/bin/env python
"""Write the files that a new table or a new method of condensation needs.

    make table KEY=table_5_1 EXPERIMENT=effdl_nb.condensation.experiments:condensation_accuracy
    make method NAME=mymethod FAMILY=matching

The cells that every reproduction notebook shares stand here, with KEY for its own key;
tests/foundations/test_repository.py counts that every notebook has them to the letter.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).parent.parent
_PROFILE = """\
profile: str = "quick"  # quick, laptop, paper, or the path of a YAML file of the same form
"""
_REPORTS = """\
reports: str = ""  # folder of results; empty: $EFFDL_REPORTS, else reports/ of the checkout\
"""
_PAPERMILL = """
Papermill runs the notebook with other parameters:

```
papermill nbs/05_reproduction/KEY.ipynb out.ipynb -p profile quick
```\
"""

# Kind of cell and its source; the cell of parameters also bears the tag `parameters`.
TABLE = (
    (
        "markdown",
        "The rows that the profile names are measured here, or read where the same code and "
        "settings have made them already." + _PAPERMILL,
    ),
    (
        "parameters",
        _PROFILE
        + 'rows: str = "all"  # "all", or row keys separated by commas\n'
        + 'seeds: str = "all"  # "all", or seeds separated by commas\n'
        + _REPORTS,
    ),
    (
        "code",
        "from effdl_nb import report, study\n\n"
        'study.check_parameters(globals(), ("profile", "rows", "seeds", "reports"))',
    ),
    ("markdown", "## Measuring"),
    ("code", 'outcome = study.run("KEY", profile, rows, reports, seeds)'),
    ("code", 'table = report.write_table("KEY", profile, reports)\ntable'),
    ("code", "table.picture"),
    ("markdown", "## How each number came about"),
    ("code", 'report.provenance_frame("KEY", profile, reports)'),
    (
        "markdown",
        "The last cell fails if a row failed; what could be measured stands above.",
    ),
    ("code", "outcome.check()"),
)
FIGURE = (
    (
        "markdown",
        "A figure's notebook measures nothing: it draws from the rows that are there, if it needs "
        "any, and can be run again whenever they change." + _PAPERMILL,
    ),
    ("parameters", _PROFILE + _REPORTS),
    (
        "code",
        "from effdl_nb import report, study\n\n"
        'study.check_parameters(globals(), ("profile", "reports"))',
    ),
    ("code", 'report.write_figure("KEY", figure, frame, profile, reports)'),
)

NUMBER = re.compile(r"table_(\d+)_(\d+|[a-z])")
ENTRY = """\
KEY:
  kind: table
  number: "NUMBER"
  chapter: CHAPTER
  title: TITLE
  protocol: Nothing of the kind; this table is the study's own.
  spread: deviation
  row_head: Row
  experiment: EXPERIMENT
  rows:
ROWS
  columns:
    value: {label: Value, metric: value, digits: 2}
"""
NEXT = """\
Now write, in workflow/tables.yaml, labels, settings and columns (a column's metric is a key of what
the experiment returns); in the profiles, seeds and sizes; in the notebook, claim and discussion."""


def write_notebook(path: Path, opening: str, standard, before: dict[str, str]):
    "Write a notebook of the standard cells; `before` holds what stands before some of them."
    cells = [nbformat.v4.new_markdown_cell(opening)]
    for kind, source in standard:
        source = source.replace("KEY", path.stem)
        if source in before:
            cells.append(nbformat.v4.new_markdown_cell(before[source]))
        if kind == "markdown":
            cells.append(nbformat.v4.new_markdown_cell(source))
        else:
            tags = {"tags": ["parameters"]} if kind == "parameters" else {}
            cells.append(nbformat.v4.new_code_cell(source, metadata=tags))
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def rows_of(experiment: str) -> tuple[str, ...]:
    "The rows that an experiment declares, or one row. Raises ValueError if there is no such one."
    module, _, name = experiment.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"unknown experiment {experiment!r}; it is written module:function ({error})"
        ) from error
    declared = getattr(function, "experiment", function)
    return tuple(getattr(declared, "rows", None) or ("first",))


def insert_table(path: Path, key: str, entry: str):
    "Add an entry to tables.yaml, behind the last one of its chapter."
    text, chapter = path.read_text(encoding="utf-8"), int(key.split("_")[1])
    if key in yaml.safe_load(text):
        raise ValueError(f"{key} is in {path.name} already")
    later = [name for name, item in yaml.safe_load(text).items() if item["chapter"] > chapter]
    head, mark, tail = text.partition(f"\n{later[0]}:\n") if later else (text, "", "")
    path.write_text(f"{head.rstrip()}\n\n{entry}{mark}{tail}", encoding="utf-8")


def add_table(key: str, experiment: str, title: str = "") -> list[Path]:
    """Write a table's notebook and its lines in tables.yaml and profile quick; the files written.

    Raises ValueError if the key has another form, or is taken, or the experiment is unknown."""
    if not (match := NUMBER.fullmatch(key)):
        raise ValueError(f"key must be table_<chapter>_<number or letter>, not {key!r}")
    path = ROOT / "nbs" / "05_reproduction" / f"{key}.ipynb"
    if path.exists():
        raise ValueError(f"{path} exists already")
    number = f"{match[1]}.{match[2].upper()}"
    title = title or f"What {experiment.split(':')[-1]} measures"
    rows = "\n".join(f"    {row}: {{label: {row}}}" for row in rows_of(experiment))
    fields = {"KEY": key, "NUMBER": number, "CHAPTER": match[1], "TITLE": title}
    fields |= {"EXPERIMENT": experiment, "ROWS": rows}
    entry = re.sub("|".join(fields), lambda found: fields[found[0]], ENTRY)
    tables, quick = ROOT / "workflow" / "tables.yaml", ROOT / "config" / "quick.yaml"
    insert_table(tables, key, entry)
    with open(quick, "a", encoding="utf-8") as file:
        file.write(f"  {key}:\n    seeds: [0]\n")
    opening = f"# Table {number}\n\n> {title}\n\nWhat is measured: `{experiment}`."
    shown = f'table = report.write_table("{key}", profile, reports)\ntable'
    write_notebook(path, opening, TABLE, {shown: "## The table"})
    return [path, tables, quick]


FAMILIES = ("coresets", "matching", "kernels", "distillation", "trajectory")
CHAPTER = "nbs/04_condensation"
CLOSING = "## What was checked, and what comes next"
METHOD = (
    (
        "markdown",
        """\
# TITLE

> A method of condensation of the family FAMILY

This notebook claims that TITLE condenses images, and says by which formula.
It makes the row NAME of Table 4.1.
It builds on the learning loop and on [the family FAMILY](FAMILY_NOTEBOOK).""",
    ),
    ("code", "#| default_exp condensation.NAME"),
    (
        "code",
        """\
#| export
from dataclasses import dataclass
from typing import ClassVar

from effdl_nb import settings
from effdl_nb.condensation.learning import Run
from effdl_nb.condensation.real import RealImages
from effdl_nb.condensation.sets import CondensedSet""",
    ),
    ("markdown", "## Its settings\n\nA frozen dataclass; the defaults are those of the paper."),
    (
        "code",
        """\
#| export
@dataclass(frozen=True)
class KIND:
    "Settings of TITLE."

    maker: ClassVar[str] = "effdl_nb.condensation.NAME:condense_NAME"
    method: ClassVar[str] = "NAME"
    ipc: int = 1  # images per class
    iterations: int = 1000  # steps
    image_lr: float = 0.1  # of the pixels
    max_skipped: int = 10  # consecutive steps that may be skipped because they are not finite
    seed: int = 0  # of all that is random

    def __post_init__(self):
        settings.at_least(self, 1, "ipc", "iterations", "max_skipped")
        settings.finite(self, "image_lr")""",
    ),
    (
        "code",
        """\
try:
    KIND(ipc=0)
except ValueError as error:
    print(error)
assert KIND(ipc=10).ipc == 10""",
    ),
    (
        "markdown",
        "## One step\n\nDerivation, the naive form, the exported one, and that they agree.",
    ),
    (
        "code",
        """\
#| export
def condense_NAME(
    real: RealImages,
    config: KIND,
    run: Run = Run(),  # noqa: B008
) -> CondensedSet:
    "Learn `ipc` images per class. Raises NotImplementedError until it is written."
    raise NotImplementedError("condense_NAME is not written yet; see NOTEBOOK")""",
    ),
    ("markdown", f"{CLOSING}\n\nNothing yet: the step is to be derived, written and checked."),
)
REST = """\
Now write the step in the notebook and paste

    into METHODS, CHAPTER/*_methods.ipynb:
    "NAME": Method("TITLE", f"{_HERE}.NAME:KIND", "<source>"),

    into workflow/tables.yaml, table_4_1: rows:
    NAME: {label: TITLE}

Then .venv/bin/nbdev_export, and: .venv/bin/python -m effdl_nb.condensation --method NAME"""


def add_method(name: str, family: str) -> tuple[list[Path], str]:
    """Write a method's notebook; the files written, and what remains to be done.

    Raises ValueError if the name cannot be a module's or is taken, or the family is unknown."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"name must be lower case letters, digits and _, not {name!r}")
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} is unknown; allowed: {', '.join(FAMILIES)}")
    notebooks = sorted(path.name for path in (ROOT / CHAPTER).glob("[0-9]*_*.ipynb"))
    if taken := [other for other in notebooks if other.partition("_")[2] == f"{name}.ipynb"]:
        raise ValueError(f"{CHAPTER}/{taken[0]} exists already")
    kin = next(other for other in notebooks if other.endswith(f"_{family}.ipynb"))
    path = ROOT / CHAPTER / f"{int(notebooks[-1][:2]) + 1}_{name}.ipynb"
    title = name.replace("_", " ").capitalize()
    fields = {"FAMILY_NOTEBOOK": kin, "FAMILY": family, "NAME": name, "TITLE": title}
    fields |= {"KIND": "".join(part.capitalize() for part in name.split("_")) + "Config"}
    fields |= {"CHAPTER": CHAPTER, "NOTEBOOK": path.name}

    def filled(text: str) -> str:
        return re.sub("|".join(fields), lambda found: fields[found[0]], text)

    (_, opening), *rest = METHOD
    write_notebook(path, filled(opening), [(kind, filled(text)) for kind, text in rest], {})
    return [path], filled(REST)


def main(argv: list[str] | None = None) -> int:
    "Write the files of a new table or method and say what remains to be written."
    parser = argparse.ArgumentParser(description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help=add_table.__doc__.partition("\n")[0])
    table.add_argument("key", help="table_<chapter>_<number or letter>, as table_5_1")
    table.add_argument("experiment", help="module:function")
    table.add_argument("--title", default="", help="what stands in the table")
    method = commands.add_parser("method", help=add_method.__doc__.partition("\n")[0])
    method.add_argument("name", help="of the method, its module and its row")
    method.add_argument("family", help=", ".join(FAMILIES))
    given = parser.parse_args(argv)
    try:
        if given.command == "table":
            written, rest = add_table(given.key, given.experiment, given.title), NEXT
        else:
            written, rest = add_method(given.name, given.family)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for path in written:
        print(f"wrote {path.relative_to(ROOT)}")
    print(rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
