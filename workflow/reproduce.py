#!/usr/bin/env python
"""Run a profile of the study and render its report.

    python workflow/reproduce.py                              # profile quick on all cores
    python workflow/reproduce.py --profile laptop --cores 2
    python workflow/reproduce.py --profile paper -- --executor slurm --jobs 16

What stands after `--` goes to Snakemake. The exit status is 0 only if every row and figure of the
profile is there; the report is made in any case, and a second call continues where the first one
stopped.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from effdl_nb import report, study
from effdl_nb.files import lock


def snakemake(
    profile: str, cores: int, at: study.Place, first: list[Path], more: list[str], held
) -> int:
    """Let Snakemake make what is missing, beginning with the files `first`; its exit status.

    It shares the lock `held`, which so lasts while it works, even if this process is killed."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(Path(__file__).with_name("Snakefile")),
        # a cluster's jobs are not bound by this machine's cores
        *([] if "--executor" in more else ["--cores", str(cores)]),
        "--config",
        f"profile={profile}",
        f"reports={at.reports}",
        "planned=true",
        "--keep-going",
        "--rerun-incomplete",
        "--rerun-triggers",
        "mtime",
        "--scheduler",
        "greedy",
        "--nolock",  # Snakemake's own lock would outlive a kill
        "--quiet",
        "rules",
        "progress",
        "host",
        "reason",
        *(["--prioritize", *map(str, first)] if first else []),
        *more,
    ]
    return subprocess.run(command, cwd=study.project_root(), pass_fds=[held.fileno()]).returncode


def tell(profile: study.Profile, at: study.Place) -> int:
    "Print what there is of the profile; the number of rows and figures that are not there."
    lacking, tables = 0, study.load_tables()
    for key, plan in profile.tables.items():
        states = {row: study.row_state(tables[key], profile, row, at) for row in plan.rows}
        missing = [
            f"{row} ({state})"
            for row, state in states.items()
            if state not in ("measured", "changed")
        ]
        lacking += len(missing)
        rest = f"; not there: {', '.join(missing)}" if missing else ""
        print(
            f"{tables[key].kind} {tables[key].number}: {len(states) - len(missing)} of "
            f"{len(states)} rows{rest}"
        )
    figures = study.figures_of(profile, tables)
    undrawn = [tables[key].number for key in figures if not at.figure(key).exists()]
    if figures:
        print(
            f"figures: {len(figures) - len(undrawn)} of {len(figures)} drawn"
            + (f"; not there: {', '.join(undrawn)}" if undrawn else "")
        )
    return lacking + len(undrawn)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--profile",
        default="quick",
        help="quick, laptop, paper, or the path of a YAML file (default: quick)",
    )
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count(), help="cores to use at once (default: all)"
    )
    parser.add_argument(
        "--reports", help="where results go (default: $EFFDL_REPORTS, else reports/)"
    )
    parser.add_argument(
        "more", nargs="*", metavar="-- SNAKEMAKE OPTIONS", help="passed on to Snakemake"
    )
    given, start = parser.parse_args(), time.monotonic()
    try:
        if given.profile.endswith(".yaml"):
            given.profile = str(Path(given.profile).absolute())
        profile = study.load_profile(given.profile)
        at = study.place(profile, Path(given.reports).absolute() if given.reports else None)
        with lock(at.folder / "reproduce", timeout=0) as held:
            study.write_plans(given.profile, at.reports)
            first = [at.folder / "tables" / f"{key}.csv" for key in profile.first]
            status = snakemake(given.profile, given.cores, at, first, given.more, held)
            page = report.write_report(given.profile, at.reports)
    except TimeoutError:
        print(
            f"another run of profile {given.profile} is at work in {at.folder}; wait for it, or "
            "stop it",
            file=sys.stderr,
        )
        return 1
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what is finished is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    lacking = tell(profile, at)
    print(f"{page} ({time.monotonic() - start:.0f} s)")
    return status or int(lacking > 0)


if __name__ == "__main__":
    sys.exit(main())
