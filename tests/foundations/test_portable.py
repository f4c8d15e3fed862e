"Nothing is imported that only POSIX has, and the device of a command is the best that is there."

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effdl_nb.machine import best_device, peak_memory

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "effdl_nb").rglob("*.py")
    if path.name not in ("_modidx.py", "__init__.py", "__main__.py")
)
COMMANDS = ["effdl_nb.deepaa.__main__", "effdl_nb.condensation.__main__"]

BLOCKED = """
import importlib, sys

class Windows:
    "Finds nothing of what Windows does not have."
    absent = {"resource", "fcntl", "termios", "pwd", "grp", "tty", "pty", "posix_ipc"}

    def find_spec(self, name, path=None, target=None):
        if name in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in sys.argv[1].split(","):  # third parties first: they know their way
    importlib.import_module(name)
for name in Windows.absent & sys.modules.keys():
    del sys.modules[name]
sys.meta_path.insert(0, Windows())
failed = []
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        failed.append(f"{name}: {error}")
sys.exit("; ".join(failed) or 0)
"""


def test_every_module_imports_without_what_only_posix_has():
    others = "torch,torchvision,pandas,matplotlib.pyplot,tqdm.auto,pydantic,tyro,filelock,yaml"
    command = [sys.executable, "-c", BLOCKED, others, *MODULES, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_memory_is_unknown_where_nobody_says_it(monkeypatch):
    assert peak_memory()["host"] > 10
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert "host" not in peak_memory()


@pytest.mark.parametrize(
    "cuda, mps, best", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_a_command_takes_the_best_device_unless_it_is_told_one(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == best and best_device("cpu") == "cpu"
