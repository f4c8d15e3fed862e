"A fault test leaves its process as it was."

import os
import sys

import pytest


@pytest.fixture(autouse=True)
def own_place(monkeypatch, tmp_path):
    monkeypatch.setenv("EFFDL_ROOT", os.environ.get("EFFDL_ROOT", ""))
    monkeypatch.setenv("EFFDL_REPORTS", "")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield
    sys.path[:] = before
    sys.modules.pop("fault_draws", None)
