"New tables and methods are written by workflow/scaffold.py into a copy of the checkout."

import importlib.util
import re
import shutil
import sys
import types
from pathlib import Path

import nbformat
import pytest
import yaml

from effdl_nb import report, study
from effdl_nb.condensation import condense, methods

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
    for folder in ("workflow", "config", "nbs/04_condensation", "nbs/05_reproduction"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "settings.ini", tmp_path)
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
    assert scaffold(["table", "table_3_c", "new_draws:draw", "--title", "Drawn numbers"]) == 0
    after = (checkout / "workflow" / "tables.yaml").read_text()
    keys = list(yaml.safe_load(after))
    # behind the last table of its chapter, and nothing else is touched
    assert keys[keys.index("table_3_c") - 1] == "table_3_b"
    assert [key for key in keys if key != "table_3_c"] == list(yaml.safe_load(before))
    assert all(line in after.splitlines() for line in before.splitlines())
    path = checkout / "nbs" / "05_reproduction" / "table_3_c.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# Table 3.C\n\n> Drawn numbers\n")
    outcome = study.run("table_3_c", "quick", reports=tmp_path / "out")
    outcome.check()
    frame = report.write_table("table_3_c", "quick", tmp_path / "out").frame
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


def test_a_new_method_is_a_notebook_that_can_be_exported_named_and_called(
    checkout, scaffold, capsys, monkeypatch
):
    assert scaffold(["method", "two_means", "coresets"]) == 0
    told = capsys.readouterr().out
    (path,) = (checkout / "nbs" / "04_condensation").glob("*_two_means.ipynb")
    others = sorted(p.name for p in (ROOT / "nbs" / "04_condensation").glob("*.ipynb"))
    assert path.name > others[-1]  # read, and imported, after all of them
    cells = nbformat.read(path, as_version=4).cells
    nbformat.validate(nbformat.read(path, as_version=4))
    assert cells[0].source.startswith("# Two means\n\n> ")
    assert cells[-1].source.startswith("## What was checked, and what comes next")
    link = re.search(r"\]\((.*_coresets\.ipynb)\)", cells[0].source)[1]
    assert (path.parent / link).exists()
    # the code of its cells runs
    module = types.ModuleType("effdl_nb.condensation.two_means")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for cell in cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), module.__dict__)
    # what it says to paste makes the method known
    line = re.search(r'"two_means": (Method\(.*\)),', told)[1]
    spec = eval(line, {"Method": methods.Method, "_HERE": "effdl_nb.condensation"})
    monkeypatch.setitem(methods.METHODS, "two_means", spec)
    assert methods.configure("two_means", ipc=10).ipc == 10
    with pytest.raises(NotImplementedError, match=f"not written yet; see {path.name}"):
        condense("cifar10-sample", "two_means", whitening="channel", progress=False)
    assert yaml.safe_load(re.search(r"^ *two_means: \{.*\}$", told, re.M)[0]) == {
        "two_means": {"label": "Two means"}
    }


@pytest.mark.parametrize(
    "name, family, message",
    [
        ("2means", "coresets", "name must be"),
        ("kernels", "kernels", "exists already"),
        ("means", "means", "allowed: coresets, matching, kernels, distillation, trajectory"),
    ],
)
def test_a_method_that_cannot_be_written_is_said(checkout, scaffold, capsys, name, family, message):
    before = sorted((checkout / "nbs" / "04_condensation").iterdir())
    assert scaffold(["method", name, family]) == 1
    assert message in capsys.readouterr().err
    assert sorted((checkout / "nbs" / "04_condensation").iterdir()) == before
