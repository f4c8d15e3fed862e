"""What another kind of processor or another number of threads does to a number.

One kind of processor gives the same bits (tests/study/test_determinism.py). Here the same rows are
measured as older processors would: torch's own kernels (ATEN_CPU_CAPABILITY) and oneDNN's
(ONEDNN_MAX_CPU_ISA) are held to fewer instructions; then with two threads. Each is compared with
this machine as it is: the largest relative difference of a loss curve's first and last value, and
of the accuracy, in points. With --write its figures go to reports/determinism.json, beside those of
other kinds of processors.

    OMP_NUM_THREADS=1 python benchmarks/determinism.py --write
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from effdl_nb.files import read_json, write_json
from effdl_nb.places import project_root
from effdl_nb.provenance import provenance

ROWS = {"table_2_3": "ternary", "table_3_2": "baseline", "table_4_1": "dm"}
AVX512 = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
VARIANTS = {
    "AVX-512 without bf16": AVX512,
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "2 threads": {"OMP_NUM_THREADS": "2"},
}
MEASURE = """
import json, sys
from effdl_nb import study
for table, rows in json.loads(sys.argv[1]).items():
    study.run(table, sys.argv[2], rows=rows, reports=sys.argv[3], seeds="0").check()
"""


def measured(variant: dict[str, str], profile: str) -> dict[str, dict]:
    "Measure the rows in a process of its own; row -> its first measurement."
    environment = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **os.environ, **variant}
    threads = environment["OMP_NUM_THREADS"]
    with tempfile.TemporaryDirectory() as folder:
        sized = Path(folder) / "sized.yaml"
        text = Path(profile).read_text(encoding="utf-8")
        sized.write_text(text.replace("threads: 1", f"threads: {threads}"), encoding="utf-8")
        command = [sys.executable, "-W", "ignore", "-c", MEASURE, json.dumps(ROWS), str(sized)]
        done = subprocess.run([*command, folder], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the rows of {profile} were not measured: {done.stderr[-2000:]}")
        paths = sorted(Path(folder).glob("sized/rows/*/*.json"))
        rows = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in paths}
    return {key: row["measurements"][0] for key, row in rows.items()}


def losses(measurement: dict) -> list[float]:
    "The losses that a measurement keeps, in their order; the last one alone where it keeps that."
    details = measurement["details"]
    if "curve" in details:
        return details["curve"]["loss"]
    return details.get("loss") or [details["train_loss"]]


def differences(here: dict[str, dict], other: dict[str, dict]) -> dict[str, dict]:
    "Row -> what differs: relative, of the first and the last loss; in points, of the accuracy."
    found = {}
    for key, mine in here.items():
        theirs = other[key]
        pairs = list(zip(losses(mine), losses(theirs), strict=True))
        relative = [abs(a - b) / max(abs(a), 1e-12) for a, b in pairs]
        accuracy = [
            abs(a - b)
            for a, b in zip(mine["metrics"]["accuracy"], theirs["metrics"]["accuracy"], strict=True)
        ]
        first = {"first_loss": relative[0]} if relative[1:] else {}
        found[key] = {**first, "last_loss": relative[-1], "accuracy": max(accuracy)}
    return found


def main(argv: list[str] | None = None):
    "Measure, compare, print, and with --write keep the figures."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=str(project_root() / "config" / "quick.yaml"))
    parser.add_argument("--write", action="store_true", help="keep reports/determinism.json")
    o = parser.parse_args(argv)
    here = measured({}, o.profile)
    mine = next(iter(here.values()))["provenance"]["cpu_capability"].lower()
    figures = {}
    for name, variant in VARIANTS.items():
        if not is_another(variant, mine):
            continue
        figures[name] = differences(here, measured(variant, o.profile))
        for row, numbers in figures[name].items():
            shown = "  ".join(f"{key} {value:.1e}" for key, value in numbers.items())
            print(f"{name:<22} {row:<10} {shown}")
    if o.write:
        write(figures)


def is_another(
    variant: dict[str, str],  # environment
    mine: str,  # what torch's kernels can here: "avx2", "avx512"
) -> bool:
    "Whether a variant asks for no more than this processor has, and for something else."
    asked = variant.get("ATEN_CPU_CAPABILITY")
    if asked is None:
        return True
    order = ["default", "avx2", "avx512"]
    known = order[: order.index(mine) + 1] if mine in order else []
    return asked in known and (asked != mine or "avx512" in asked)


def write(figures: dict[str, dict]) -> None:
    "Keep the figures of this kind of processor beside those of others."
    path = project_root() / "reports" / "determinism.json"
    kinds = read_json(path)["kinds"] if path.exists() else {}
    origin = provenance(project_root())
    kept = {key: origin[key] for key in ("commit", "dirty")}
    kept |= {"torch": origin["packages"]["torch"], "figures": figures}
    kept["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    kinds[origin["processor_kind"]] = kept
    write_json(path, {"kinds": dict(sorted(kinds.items()))})


if __name__ == "__main__":
    main()
