"A checkout of a toy study, run by the real workflow in processes of its own."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
REPRODUCE = [sys.executable, str(ROOT / "workflow" / "reproduce.py")]
EXPERIMENT = """
import time
from dataclasses import dataclass
from pathlib import Path
from effdl_nb.spec import experiment

@dataclass(frozen=True)
class Settings:
    size: int = 1      # a setting
    wait: float = 0.0  # seconds a measurement takes

@experiment(Settings)
def draw(task):
    "Counts its calls in a file, so that tests see what was measured."
    with open(Path(__file__).parent / "calls", "a") as f:
        f.write(f"{task.row}:{task.seed}\\n")
    if (Path(__file__).parent / f"break_{task.row}").exists():
        raise RuntimeError("broken on purpose")
    time.sleep(task.settings.wait)
    return {"value": len(task.row) + task.seed * task.settings.size}
"""
CELLS = [
    (
        'profile: str = "quick"\nrows: str = "all"\nseeds: str = "all"\nreports: str = ""',
        ["parameters"],
    ),
    (
        'from effdl_nb import report, study\nstudy.check_parameters(globals(), ("profile", '
        '"rows", "seeds", "reports"))',
        [],
    ),
    ('outcome = study.run("table_9_1", profile, rows, reports or None, seeds)', []),
    ('report.write_table("table_9_1", profile, reports or None)', []),
    ("outcome.check()", []),
]


def write_notebook(cells: list[tuple[str, list[str]]], path: Path):
    "Write a notebook of code cells, each with its tags."
    made = [
        nbformat.v4.new_code_cell(source, metadata={"tags": tags} if tags else {})
        for source, tags in cells
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), path)


class Toy:
    "A checkout with one table of three rows and two seeds."

    def __init__(self, root: Path):
        self.root, self.rows = root, root / "reports" / "toy" / "rows" / "table_9_1"
        for folder in ("workflow", "config"):
            (root / folder).mkdir(parents=True)
        (root / "nbs" / "05_reproduction").mkdir(parents=True)
        (root / "toy_draws.py").write_text(EXPERIMENT)
        (root / "workflow" / "tables.yaml").write_text(
            'table_9_1: {kind: table, number: "9.1", chapter: 9, title: Draws, spread: interval, '
            'experiment: "toy_draws:draw",\n'
            "  rows: {one: {label: One}, three: {label: Three}, seven: {label: Seven}},\n"
            "  columns: {value: {label: Value, metric: value, digits: 2}}}\n"
        )
        (root / "workflow" / "thesis.yaml").write_text("table_9_1: {values: {one: {value: 3.0}}}\n")
        self.profile()
        write_notebook(CELLS, root / "nbs" / "05_reproduction" / "table_9_1.ipynb")

    def profile(self, more: str = "", jobs: str = "table", changed: str = "remake"):
        (self.root / "config" / "toy.yaml").write_text(
            f"title: A toy\nthreads: 1\njobs: {jobs}\nchanged: {changed}\nfirst: "
            f"[table_9_1]\ntables: {{table_9_1: {{seeds: [0, 1]{more}}}}}\n"
        )

    @property
    def environment(self) -> dict:
        return os.environ | {
            "EFFDL_ROOT": str(self.root),
            "PYTHONPATH": os.pathsep.join([str(self.root), *sys.path]),
            "EFFDL_REPORTS": "",
        }

    def start(self, *arguments) -> subprocess.Popen:
        return subprocess.Popen(
            [*REPRODUCE, "--profile", "toy", "--cores", "2", *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a shell's background jobs ignore it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def calls(self) -> list[str]:
        "What was measured since the last look."
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def there(self) -> list[str]:
        return sorted(
            p.stem for p in self.rows.glob("*.json") if not p.name.endswith(".failed.json")
        )

    def figures(self):
        "Two figures, of the table's rows and of an idea; both count their drawings in `calls`."
        with open(self.root / "workflow" / "tables.yaml", "a") as file:
            file.write(
                'figure_9_1: {kind: figure, number: "9.1", chapter: 9, title: Draws seen, '
                "tables: [table_9_1], drawn_by: effdl_nb.files}\n"
                'figure_9_2: {kind: figure, number: "9.2", chapter: 9, title: An idea, drawn_by: '
                "effdl_nb.files}\n"
                'figure_9_3: {kind: figure, number: "9.3", chapter: 9, title: Not implemented}\n'
            )
        for key in ("figure_9_1", "figure_9_2"):
            cells = [
                ('profile: str = "quick"\nreports: str = ""', ["parameters"]),
                (
                    "from matplotlib.figure import Figure\nimport pandas as pd\nfrom effdl_nb "
                    "import report",
                    [],
                ),
                (
                    f"report.write_figure({key!r}, Figure(), pd.DataFrame({{'x': [1]}}), "
                    "profile, reports or None)\n"
                    f"print({key!r}, file=open({str(self.root / 'calls')!r}, 'a'))",
                    [],
                ),
            ]
            write_notebook(cells, self.root / "nbs" / "05_reproduction" / f"{key}.ipynb")


ALL = ["one:0", "one:1", "three:0", "three:1", "seven:0", "seven:1"]


def wait_for(toy, process, call: str):
    "Wait until an experiment has been called."
    calls, end = toy.root / "calls", time.monotonic() + 120
    while not calls.exists() or call not in calls.read_text():
        assert time.monotonic() < end and process.poll() is None, process.stdout.read()
        time.sleep(0.2)
