"""What bf16 does to a number: rows and their twins in fp32, paired by seed.

Profile laptop trains in `precision: auto`, which is bf16 where a processor multiplies it. Here
the rows of benchmarks/precision.yaml are measured in both, one after the other with the same seeds.
Printed: each accuracy's deviation from seed to seed, the paired difference bf16 - fp32 with its
95 % interval, and the largest difference of a pair. What bf16 saves is measured elsewhere, in turns
(`benchmarks/allocator.py`, `msunet_training.py`). With --write the figures go to
reports/precision.json.

    OMP_NUM_THREADS=1 python benchmarks/precision.py --write
"""

import argparse
import datetime
import statistics
import tempfile
from pathlib import Path

from effdl_nb import study
from effdl_nb.files import write_json
from effdl_nb.places import project_root
from effdl_nb.provenance import provenance
from effdl_nb.rows import place, read_row
from effdl_nb.spec import load_profile
from effdl_nb.verdicts import decide

PROFILE = Path(__file__).with_suffix(".yaml")
MARGIN = 1.0  # points of accuracy that would matter, stated before the run


def twins(folder: Path, profile: Path = PROFILE) -> dict[str, dict[str, dict[int, dict]]]:
    "Measure every row in both precisions; row -> precision -> seed -> measurement."
    found = {}
    for precision in ("fp32", "bf16"):
        sized = folder / f"{precision}.yaml"
        text = profile.read_text(encoding="utf-8")
        sized.write_text(text.replace("precision: auto", f"precision: {precision}"), "utf-8")
        plans = load_profile(str(sized))
        for table, plan in plans.tables.items():
            study.run(table, str(sized), reports=folder).check()
            for row in plan.rows:
                kept = read_row(place(plans, folder).row(table, row))["measurements"]
                found.setdefault(row, {})[precision] = {m["seed"]: m for m in kept}
    return found


def compared(one: dict[int, dict], other: dict[int, dict]) -> dict:
    "Hold a row in bf16 against its twin in fp32, seed by seed."
    accuracies = [
        {seed: statistics.fmean(m["metrics"]["accuracy"]) for seed, m in side.items()}
        for side in (one, other)
    ]
    differences = [accuracies[1][seed] - accuracies[0][seed] for seed in sorted(one)]
    verdict = decide(differences, MARGIN)
    return {
        "fp32": statistics.fmean(accuracies[0].values()),
        "deviation": statistics.stdev(accuracies[0].values()),
        "difference": verdict.mean,
        "interval": verdict.half,
        "pairs": verdict.n,
        "largest": max(abs(d) for d in differences),
    }


def main(argv: list[str] | None = None):
    "Measure, compare, print, and with --write keep the figures."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep reports/precision.json")
    o = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        measured = twins(Path(folder))
    figures = {row: compared(sides["fp32"], sides["bf16"]) for row, sides in measured.items()}
    for row, f in figures.items():
        print(
            f"{row:<10} fp32 {f['fp32']:.1f} (deviation {f['deviation']:.1f})  bf16 "
            f"{f['difference']:+.2f} ± {f['interval']:.2f}, {f['pairs']} pairs"
        )
    if o.write:
        origin = provenance(project_root())
        kept = {key: origin[key] for key in ("commit", "dirty", "processor_kind")}
        kept |= {"torch": origin["packages"]["torch"], "margin": MARGIN, "figures": figures}
        kept["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        write_json(project_root() / "reports" / "precision.json", kept)


if __name__ == "__main__":
    main()
