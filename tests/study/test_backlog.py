"""The queue of missing measurements: stopped, killed, failing, and on another processor."""

import os
import signal
import subprocess
import sys
import time

import pytest

from effdl_nb import backlog, rows, spec, study
from effdl_nb.files import read_kept, write_kept
from effdl_nb.machine import processor_kind


@pytest.fixture
def described(tmp_path):
    "Table 2.1 at profile quick, which describes networks in seconds, in a folder of its own."
    profile = spec.load_profile("quick")
    return profile, rows.place(profile, tmp_path)


def command(at, *more):
    return [
        sys.executable,
        "-m",
        "effdl_nb.backlog",
        "--profile",
        "quick",
        "--reports",
        str(at.reports),
        *more,
    ]


def test_the_list_says_what_is_missing_and_measures_nothing(described):
    profile, at = described
    listed = subprocess.run(command(at, "--list"), capture_output=True, text=True, check=True)
    *jobs, last = listed.stdout.splitlines()
    assert len(jobs) == len(backlog.backlog(profile, at)) and last.startswith(f"{len(jobs)} meas")
    assert not list(at.folder.rglob("*.json"))


def test_a_stop_ends_the_processes_and_the_next_start_takes_up_what_is_left(described):
    profile, at = described
    process = subprocess.Popen(command(at, "--cores", "1"), stdout=subprocess.PIPE, text=True)
    began = [process.stdout.readline() for _ in range(2)]
    assert "begins" in began[1], began
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    time.sleep(0.5)
    left = subprocess.run(["pgrep", "-f", str(at.reports)], capture_output=True, text=True)
    assert left.stdout.split() in ([], [str(os.getpid())]), "a measurement went on"
    total = sum(
        len(rows.PlannedRow(spec.load_tables()[key], profile, row, at).units)
        for key, plan in profile.tables.items()
        for row in plan.rows
    )
    missing = backlog.backlog(profile, at)
    assert 0 < len(missing) <= total


def test_rows_of_a_seed_wait_for_the_processor_that_measured_the_first(described):
    profile, at = described
    study.run("table_2_1", "quick", rows="v0", reports=at.reports, say=str)
    mine = [job for job in backlog.backlog(profile, at) if job.unit.table == "table_2_1"]
    assert {job.waits_for for job in mine} == {processor_kind()}
    path = at.row("table_2_1", "v0")
    record = read_kept(path)
    for measurement in record["measurements"]:
        measurement["provenance"]["processor_kind"] = "another"
    write_kept(path, record)
    mine = [job for job in backlog.backlog(profile, at) if job.unit.table == "table_2_1"]
    assert {job.waits_for for job in mine} == {"another"}


def test_a_measurement_that_fails_stops_no_other(described, monkeypatch):
    profile, at = described
    jobs = [j for j in backlog.backlog(profile, at) if j.unit.table == "table_2_1"][:2]
    bad, good = jobs
    monkeypatch.setattr(backlog, "backlog", lambda *_: [bad, good])
    monkeypatch.setattr(
        backlog.Job,
        "command",
        property(lambda job: [sys.executable, "-c", f"raise SystemExit({int(job is bad)})"]),
    )
    said = []
    failed = backlog.work(profile, at, 1, say=said.append, pause=0.05)
    assert failed == [bad] and sum("begins" in line for line in said) == 2


@pytest.mark.parametrize("cores, hours", [(0, None), (1, 0.0), (-1, 1.0)])
def test_no_core_and_no_time_are_refused(described, cores, hours):
    profile, at = described
    with pytest.raises(ValueError, match=f"not {cores} and {hours}"):
        backlog.work(profile, at, cores, hours)


def test_a_second_queue_is_told_that_one_is_at_work(described):
    profile, at = described
    with backlog.lock(at.folder / "reproduce"), pytest.raises(TimeoutError):
        backlog.work(profile, at, 1)
