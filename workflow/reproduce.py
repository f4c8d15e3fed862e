#!/usr/bin/env python
"""Run a profile of the study and render its report.

    python workflow/reproduce.py                              # profile quick on all cores
    python workflow/reproduce.py --profile laptop --cores 2
    python workflow/reproduce.py --profile paper --executor slurm -- --jobs 16

What stands after `--` goes to Snakemake. The exit status is 0 only if every row and figure of the
profile is there; the report is made in any case, and the same command resumes an interrupted run.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path

import psutil
from executors import executor_of, profile_of

from effdl_nb import records, report, rows, spec, study
from effdl_nb.files import Held, lock
from effdl_nb.machine import one_interrupt, run_child
from effdl_nb.provenance import project_root


def snakemake(
    profile: str, cores: int, at: rows.Place, first: list[Path], more: list[str], held
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
        *([] if executor_of(more) else ["--cores", str(cores)]),
        "--config",
        # quoted, or Snakemake would read `a: b` as a mapping
        f"profile={json.dumps(profile)}",
        f"reports={json.dumps(str(at.reports))}",
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
    how = {"cwd": project_root(), "pass_fds": [held.fileno()]}
    return run_child(command, lambda process: end_with_children(process.pid), **how)


def end_with_children(pid: int, patience: float = 15.0):
    """End a process and all that it started, jobs and their kernels: first asking, then not.

    Snakemake asks its jobs to finish when it is interrupted, and kernels do not notice at all: both
    would measure on after the lock is free."""
    try:
        process = psutil.Process(pid)
        process.suspend()  # so that it starts no job while its jobs are listed
        alive = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for one in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(one)
                one.resume()
        _, alive = psutil.wait_procs(alive, patience)


def tell(profile: spec.Profile, at: rows.Place) -> int:
    "Print what there is of the profile; the number of rows and figures that are not there."
    lacking, tables = 0, spec.load_tables()
    for key, plan in profile.tables.items():
        states = {row: rows.row_state(tables[key], profile, row, at) for row in plan.rows}
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
    figures = spec.figures_of(profile, tables)
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
        "--executor", help="where jobs run: a folder of workflow/profiles, such as slurm"
    )
    parser.add_argument(
        "more", nargs="*", metavar="-- SNAKEMAKE OPTIONS", help="passed on to Snakemake"
    )
    options, start = parser.parse_args(), time.monotonic()
    try:
        return run(options, start)
    except Held as error:
        words = (
            f"another run of profile {options.profile} is at work: {error}; wait for it, or stop it"
        )
        print(words, file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what is finished is kept; run the same command again to resume",
            file=sys.stderr,
        )
        return 130


def run(options: argparse.Namespace, start: float) -> int:
    "Run a profile; the exit status."
    with one_interrupt():
        if options.profile.endswith(".yaml"):
            options.profile = str(Path(options.profile).absolute())
        if options.executor:
            folder = str(profile_of(options.executor))
            os.environ["EFFDL_EXECUTOR"] = folder  # for commands beside its options
            options.more = ["--workflow-profile", folder, *options.more]
        profile = spec.load_profile(options.profile)
        at = rows.place(profile, Path(options.reports).absolute() if options.reports else None)
        if set("{}") & set(str(at.folder)):
            raise ValueError(f"{at.folder} must hold no braces: Snakemake reads them as patterns")
        with lock(at.folder / "reproduce", timeout=0) as held:
            study.write_plans(options.profile, at.reports)
            first = [at.folder / "tables" / f"{key}.csv" for key in profile.first]
            status = snakemake(options.profile, options.cores, at, first, options.more, held)
            records.write_results(options.profile, at.reports)
            page = report.write_report(options.profile, at.reports)
            records.write_crate(options.profile, at.reports)
    lacking = tell(profile, at)
    print(f"{page} ({time.monotonic() - start:.0f} s)")
    return status or int(lacking > 0)


if __name__ == "__main__":
    sys.exit(main())
