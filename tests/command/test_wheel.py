"Installed without a checkout, the package brings the study and reproduces it in a user's folder."

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = {".venv", ".git", ".snakemake", "reports", "build", "dist", "__pycache__", "images"}
COUNTED = """title: Counted rows alone
threads: 1
jobs: table
changed: remake
tables: {table_2_1: {seeds: [0], rows: [v0, v3]}}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "The wheel's content in a folder, with a size limit on the wheel."
    top = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns(*LEFT_OUT, "*.egg-info")
    shutil.copytree(ROOT, top / "source", ignore=ignore)
    words = ["-m", "build", "--wheel", "--no-isolation", "--outdir", top, top / "source"]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    (wheel,) = top.glob("*.whl")
    assert wheel.stat().st_size < 15e6
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, top / "site"], check=True)
    return top / "site"


def effdl(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    "Run the installed package's command in a folder that is no checkout."
    named = ("EFFDL_ROOT", "EFFDL_REPORTS", "PYTHONPATH")
    environment = {k: v for k, v in os.environ.items() if k not in named}
    environment["PYTHONPATH"] = str(installed)
    command = [sys.executable, "-m", "effdl_nb", *words]
    more = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(command, timeout=550, **more)


def test_the_script_is_declared(installed):
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "effdl = effdl_nb.command.table:main" in entry.read_text()
    assert (installed / "effdl_nb" / "py.typed").exists()


def test_what_is_asked_of_the_study_is_answered(installed, tmp_path):
    assert "mtt" in effdl(installed, tmp_path, "list").stdout
    done = effdl(installed, tmp_path, "explain", "table_4_1", "mtt", "image_lr")
    assert done.returncode == 0 and "MTTConfig" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == [], "asking writes nothing"


def test_a_profile_is_reproduced_in_a_folder_of_the_user_s(installed, tmp_path):
    (tmp_path / "counted.yaml").write_text(COUNTED)
    words = ("reproduce", "--profile", "counted.yaml", "--cores", "1", "--folder", "study")
    done = effdl(installed, tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the study is laid out in study" in done.stdout
    page = tmp_path / "study" / "reports" / "counted" / "index.html"
    assert "table 2.1: 2 of 2 rows" in done.stdout
    for key in ("table_2_1", "figure_3_1", "figure_4_2", "figure_4_3"):  # what needs no table
        assert f'href="notebooks/{key}.html"' in page.read_text(), key
    changed = tmp_path / "study" / "config" / "quick.yaml"
    changed.write_text("title: mine\n")
    from_there = effdl(installed, tmp_path / "study", "list", "profiles")
    assert from_there.returncode == 1 and "missing" in from_there.stderr
    assert effdl(installed, tmp_path, *words).returncode == 0
    assert changed.read_text() == "title: mine\n", "what a user changed stays"
