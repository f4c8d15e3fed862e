"New tables and methods are written by workflow/scaffold.py into a copy of the checkout."

import importlib.util
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from effdl_nb import report, study

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
from dataclasses import dataclass

from effdl_nb.spec import experiment

@dataclass(frozen=True)
class Settings:
    size: int = 3

@experiment(Settings, rows=("small", "large"))
def draw(task):
    return {"value": task.settings.size + task.seed}
"""


@pytest.fixture
def checkout(tmp_path):
    "What the script reads and writes, and a module with an experiment."
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    for folder in ("04_condensation", "05_reproduction"):
        shutil.copytree(ROOT / "nbs" / folder, tmp_path / "nbs" / folder)
    (tmp_path / "new_draws.py").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture
def scaffold(checkout, monkeypatch):
    "The script's `main`, at work in the copy."
    monkeypatch.setenv("EFFDL_ROOT", str(checkout))
    monkeypatch.syspath_prepend(str(checkout))
    spec = importlib.util.spec_from_file_location("scaffold", checkout / "workflow" / "scaffold.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.main
    sys.modules.pop("new_draws", None)


def test_a_new_table_runs_at_once(checkout, scaffold, tmp_path):
    before = (checkout / "workflow" / "tables.yaml").read_text()
    assert scaffold(["table", "table_3_b", "new_draws:draw", "--title", "Drawn numbers"]) == 0
    after = (checkout / "workflow" / "tables.yaml").read_text()
    keys = list(yaml.safe_load(after))
    # behind the last table of its chapter, and nothing else is touched
    assert keys[keys.index("table_3_b") - 1] == "table_3_a"
    assert [key for key in keys if key != "table_3_b"] == list(yaml.safe_load(before))
    assert all(line in after.splitlines() for line in before.splitlines())
    path = checkout / "nbs" / "05_reproduction" / "table_3_b.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# Table 3.B\n\n> Drawn numbers\n")
    outcome = study.run("table_3_b", "quick", reports=tmp_path / "out")
    outcome.check()
    frame = report.write_table("table_3_b", "quick", tmp_path / "out").frame
    assert frame.set_index("row").ours.to_dict() == {"small": 3, "large": 3}


def test_its_notebook_has_the_standard_cells(checkout, scaffold):
    scaffold(["table", "table_5_1", "new_draws:draw"])
    folder = checkout / "nbs" / "05_reproduction"
    new, old = (
        {
            (cell.cell_type, cell.source.replace(name, "KEY"))
            for cell in nbformat.read(folder / f"{name}.ipynb", as_version=4).cells
        }
        for name in ("table_5_1", "table_4_3")
    )
    own = [source for kind, source in new - old]
    assert [source.splitlines()[0] for source in sorted(own)] == ["# Table 5.1", "## The table"]


@pytest.mark.parametrize(
    "key, experiment, message",
    [
        ("figure_3_8", "new_draws:draw", "table_<chapter>_<number or letter>"),
        ("table_3_1", "new_draws:draw", "exists already"),
        ("table_5_1", "new_draws:drew", "unknown experiment 'new_draws:drew'"),
        ("table_5_1", "absent:draw", "unknown experiment 'absent:draw'"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is_written(
    checkout, scaffold, capsys, key, experiment, message
):
    def files():
        return {p: p.read_bytes() for p in checkout.rglob("*") if p.suffix in {".yaml", ".ipynb"}}

    before = files()
    assert scaffold(["table", key, experiment]) == 1
    assert message in capsys.readouterr().err
    assert files() == before
