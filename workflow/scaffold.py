#!/usr/bin/env python
"""Write the stub of a new table.

The cells that every reproduction notebook shares stand here, with KEY for its own key;
tests/foundations/test_repository.py counts that every notebook has them to the letter.
"""

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
