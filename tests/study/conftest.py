"A toy study in a folder of its own: a table of two rows that anybody can measure."

import sys

import pytest

TABLES = """
table_9_1:
  kind: table
  number: "9.1"
  chapter: 9
  title: Draws
  spread: deviation
  experiment: study_draws:draw
  rows: {a: {label: A}, b: {label: B, settings: {size: 7}}}
  columns:
    value: {label: Value, metric: value}
    large: {label: Large, metric: value, settings: {size: 100}}
    size: {label: Size, metric: size, counted: true}
table_9_2:
  kind: table
  number: "9.2"
  chapter: 9
  title: Later
  rows: {a: {label: A}}
  columns: {value: {label: Value}}
"""
EXPERIMENT = """
import time
from dataclasses import dataclass
from effdl_nb.spec import experiment
calls = []
@dataclass(frozen=True)
class Settings:
    size: int = 1
    bad: str = ""
@experiment(Settings)
def draw(task):
    row, settings, seed = task.row, task.settings, task.seed
    calls.append((row, settings.size, seed))
    print("measuring", row, settings.size, seed, flush=True)
    if settings.bad == "nan":
        return {"value": float("nan"), "size": 1}
    if settings.bad == "missing":
        return {"size": 1}
    if settings.bad == "seeded":
        return {"value": 1.0, "size": seed}
    if settings.bad == "slow" and seed == 1:
        time.sleep(60)
    return {"value": [settings.size + seed, settings.size + seed + 1], "size": settings.size}
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    for folder in ("workflow", "config"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "workflow" / "tables.yaml").write_text(TABLES)
    (tmp_path / "workflow" / "thesis.yaml").write_text(
        "table_9_1: {values: {a: {value: {printed: 1.5, corrected: 2.5, why: slip}}}}"
    )
    (tmp_path / "study_draws.py").write_text(EXPERIMENT)
    monkeypatch.setenv("EFFDL_ROOT", str(tmp_path))
    monkeypatch.setenv("EFFDL_REPORTS", "")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("study_draws", None)

    def profile(plan="{seeds: [0, 1]}", **more):
        lines = {"title": "Toy", "threads": 1, "jobs": "table", "changed": "remake"} | more
        text = (
            "\n".join(f"{k}: {v}" for k, v in lines.items()) + f"\ntables: {{table_9_1: {plan}}}\n"
        )
        (tmp_path / "config" / "toy.yaml").write_text(text)

    profile()
    yield tmp_path, profile
    sys.modules.pop("study_draws", None)
