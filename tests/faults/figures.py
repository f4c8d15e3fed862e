"""Run the whole fault suite and note its figures in reports/faults.json, which RESULTS.md shows.

python tests/faults/figures.py            # what `make faults` runs; 40 minutes on two cores
python tests/faults/figures.py -k races   # a part; nothing is noted
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from effdl_nb.files import write_json
from effdl_nb.provenance import provenance

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "reports" / "faults.json"


def totals(lines: list[dict]) -> dict[str, dict[str, int]]:
    "Add up what tests counted, by what was tried."
    summed: dict[str, Counter] = {}
    for line in lines:
        what = line.pop("what")
        summed.setdefault(what, Counter()).update(line)
    return {what: dict(numbers) for what, numbers in sorted(summed.items())}


def table(figures: dict[str, dict[str, int]]) -> str:
    "What was tried and what came of it, as lines."
    lines = []
    for what, numbers in figures.items():
        rest = ", ".join(f"{key} {n:,}" for key, n in numbers.items() if key != "tried")
        lines.append(f"{what:<42} {numbers.get('tried', 0):>9,}   {rest}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "figures"
        environment = os.environ | {"EFFDL_FAULTS": "full", "EFFDL_FAULT_FIGURES": str(place)}
        command = [sys.executable, "-m", "pytest", "-q", "--timeout", "7200", "tests/faults"]
        command += ["--numprocesses", str(os.cpu_count() or 1), "--dist", "worksteal"]
        status = subprocess.run([*command, *argv], cwd=ROOT, env=environment).returncode
        text = place.read_text(encoding="utf-8") if place.exists() else ""
    figures = totals([json.loads(line) for line in text.splitlines()])
    print(table(figures))
    if status == 0 and not argv:
        origin = provenance(ROOT)
        kept = {key: origin[key] for key in ("commit", "dirty", "processor_kind", "python")}
        kept["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        write_json(KEPT, {**kept, "figures": figures})
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
