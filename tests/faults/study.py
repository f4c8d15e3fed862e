"A toy study in a folder: what is measured takes no time, and there is much of it."

import os
import sys
from pathlib import Path

from effdl_nb import spec, study
from effdl_nb.rows import PlannedRow, place

EXPERIMENT = """
import time
from dataclasses import dataclass
from effdl_nb.spec import experiment

@dataclass(frozen=True)
class Settings:
    size: int = 1
    wait: float = 0.0

@experiment(Settings)
def draw(task):
    time.sleep(task.settings.wait)
    return {"value": [task.seed + 0.5, task.seed * task.settings.size]}
"""
TABLES = """
table_9_1:
  kind: table
  number: "9.1"
  chapter: 9
  title: Draws
  experiment: fault_draws:draw
  rows: {a: {label: A}}
  columns:
"""


class Toy:
    "A study of one row with `seeds` seeds and `columns` columns."

    def __init__(self, root: Path, seeds: int, columns: int = 1, wait: float = 0.0):
        self.root, self.seeds = root, seeds
        self.columns = [f"c{k}" for k in range(columns)]
        (root / "workflow").mkdir(parents=True)
        (root / "config").mkdir()
        lines = "".join(
            f"    {key}: {{label: L, metric: value, settings: {{size: {k + 1}}}}}\n"
            for k, key in enumerate(self.columns)
        )
        (root / "workflow" / "tables.yaml").write_text(TABLES + lines)
        (root / "workflow" / "thesis.yaml").write_text("{}")
        (root / "fault_draws.py").write_text(EXPERIMENT)
        plan = f"{{seeds: {list(range(seeds))}, settings: {{wait: {wait}}}}}"
        (root / "config" / "toy.yaml").write_text(
            f"title: Toy\nthreads: 1\njobs: table\nchanged: remake\ntables: {{table_9_1: {plan}}}\n"
        )

    def enter(self):
        "Work in this folder."
        os.environ["EFFDL_ROOT"], os.environ["EFFDL_REPORTS"] = str(self.root), ""
        os.chdir(self.root)
        sys.path.insert(0, str(self.root))
        sys.modules.pop("fault_draws", None)

    def run(self, seeds: str = "all", columns: str = "all"):
        "Measure what is missing."
        self.enter()
        how = {"seeds": seeds, "columns": columns, "say": lambda line: None}
        study.run("table_9_1", "toy", **how).check()

    def kept(self) -> dict[str, dict]:
        "What is measured."
        profile = spec.load_profile("toy", self.root)
        table = spec.load_tables(self.root)["table_9_1"]
        return PlannedRow(table, profile, "a", place(profile, self.root / "reports")).kept()

    def values(self) -> dict[str, list]:
        "What was measured, by unit."
        return {key: unit["metrics"]["value"] for key, unit in self.kept().items()}

    def forget(self):
        "Begin anew."
        import shutil

        shutil.rmtree(self.root / "reports", ignore_errors=True)
