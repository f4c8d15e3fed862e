"""Execute the notebooks that a profile asks for, one after the other, in this one process.

python tests/notebook_runs.py PROFILE REPORTS CHAPTER

The workflow gives each a kernel of its own, whose start and imports take longer than a tiny row.
"""

import sys
from pathlib import Path

import nbformat
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from effdl_nb import spec

NOTEBOOKS = Path(__file__).parents[1] / "nbs" / "05_reproduction"


def execute(key: str, out: Path, parameters: dict[str, str]):
    "Execute a table's or figure's notebook with parameters and keep it. Raises as its cells do."
    source = load_notebook_node(str(NOTEBOOKS / f"{key}.ipynb"))
    nbformat.write(parameterize_notebook(source, parameters), out)
    notebook, shell = read_nb(out), CaptureShell()
    shell.run_all(notebook, exc_stop=True)
    write_nb(notebook, out)
    if shell.exc:
        raise shell.exc


def main(profile: str, reports: str, chapter: str):
    "Execute a chapter's tables, then its figures."
    plans, tables = spec.load_profile(profile), spec.load_tables()
    folder = Path(reports) / plans.name / "notebooks"
    folder.mkdir(parents=True)
    for key in (*plans.tables, *spec.figures_of(plans, tables)):
        if str(tables[key].chapter) == chapter:
            execute(key, folder / f"{key}.ipynb", {"profile": profile, "reports": reports})


if __name__ == "__main__":
    main(*sys.argv[1:])
