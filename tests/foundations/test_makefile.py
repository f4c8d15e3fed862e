"""The commands of the Makefile in a checkout whose path holds a blank.

The programs of its .venv only note how they are called.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTE = """#!/bin/sh
printf '%s' "$(basename "$0")|$EFFDL_ROOT|$OMP_NUM_THREADS" >> calls
printf '|%s' "$@" >> calls
printf '\\n' >> calls
"""


@pytest.fixture
def checkout(tmp_path):
    "A Makefile beside a set-up .venv."
    here = tmp_path / "with blank" / "effdl"
    (here / "benchmarks").mkdir(parents=True)
    (here / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, here)
    for name in ("one.py", "two.py"):
        (here / "benchmarks" / name).touch()
    for name in ("python", "nbdev_test", "uv"):
        program = here / ".venv" / "bin" / name
        program.write_text(NOTE)
        program.chmod(0o755)
    (here / ".venv" / ".ready").touch()
    return here


def make(checkout: Path, *arguments: str) -> list[list[str]]:
    "The programs that a target calls: name, $EFFDL_ROOT, $OMP_NUM_THREADS, arguments."
    calls = checkout / "calls"
    calls.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("EFFDL_ROOT", "MAKEFLAGS")}
    environment.pop("OMP_NUM_THREADS", None)
    subprocess.run(
        ["make", *arguments], cwd=checkout, env=environment, check=True, capture_output=True
    )
    return [line.split("|") for line in calls.read_text().splitlines()] if calls.exists() else []


def test_set_up_is_done_once(checkout):
    assert make(checkout, "setup") == []
    (checkout / ".venv" / ".ready").unlink()
    pip, uv = make(checkout, "setup")
    assert pip[3:6] == ["-m", "pip", "install"] and uv[0] == "uv" and uv[-2] == "--editable"
    assert make(checkout, "setup") == []


def test_all_notebooks_and_all_tests_are_run_or_the_part_that_is_named(checkout):
    notebooks, tests = make(checkout, "test", "CORES=3")
    assert notebooks == ["nbdev_test", str(checkout), "1", "--path", "nbs", "--n_workers", "3"]
    assert tests[:5] == ["python", str(checkout), "1", "-m", "pytest"]
    assert not [argument for argument in tests if argument.startswith("tests")]
    notebooks, tests = make(checkout, "test", "NBS=nbs/02_msunet", "PYTEST_ARGS=tests/msunet -x")
    assert notebooks[4] == "nbs/02_msunet" and tests[-2:] == ["tests/msunet", "-x"]


@pytest.mark.parametrize("target", ["test", "reproduce"])
def test_what_is_imported_is_compiled_once(checkout, target, monkeypatch):
    # with the setting, each of some hundred processes would compile torch, pandas, ... anew
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    python = checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "kept:$PYTHONDONTWRITEBYTECODE" >> calls\n')
    assert ["kept:"] in make(checkout, target)


def test_a_profile_may_stand_in_a_folder_with_a_blank(checkout):
    profile = str(checkout / "my profile.yaml")
    (call,) = make(checkout, "reproduce", f"PROFILE={profile}", "CORES=2")
    assert call[3:] == ["workflow/reproduce.py", "--profile", profile, "--cores", "2"]


def test_every_benchmark_is_run_with_peers_that_are_installed_once(checkout):
    install, *runs = make(checkout, "benchmark")
    assert install[-1] == ".[bench]" and install[-2] == "--editable"
    assert [run[:4] for run in runs] == [
        ["python", str(checkout), "1", f"benchmarks/{name}"] for name in ("one.py", "two.py")
    ]
    (run,) = make(checkout, "benchmark", "BENCHMARKS=benchmarks/two.py", "BENCHMARK_ARGS=--help")
    assert run[3:] == ["benchmarks/two.py", "--help"]


def test_tables_and_methods_are_written_by_the_scaffold(checkout):
    (table,) = make(checkout, "table", "KEY=table_5_1", "EXPERIMENT=a.b:c", "TITLE=Two words")
    scaffold = "workflow/scaffold.py"
    assert table[3:] == [scaffold, "table", "table_5_1", "a.b:c", "--title", "Two words"]
    (method,) = make(checkout, "method", "NAME=mine", "FAMILY=matching")
    assert method[3:] == [scaffold, "method", "mine", "matching"]
