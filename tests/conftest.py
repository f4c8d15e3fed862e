"What several tests need: the checkout, and real data where they are at hand."

import os
import subprocess
import sys
from pathlib import Path

import pytest

import effdl_nb.data  # noqa: F401  # data sets register in its order, whichever test comes first

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def checkout():
    "Let every test, and every process that it starts, find the study's YAML in this checkout."
    with pytest.MonkeyPatch.context() as patch:
        if "EFFDL_ROOT" not in os.environ:
            patch.setenv("EFFDL_ROOT", str(ROOT))
        yield


@pytest.fixture(scope="session")
def full_data(tmp_path_factory) -> Path:
    """A data root with real CIFAR-100 and Tiny ImageNet.

    It is unpacked from ../shared/data beside the project; a skip where that is absent.
    """
    script = ROOT.parent / "shared" / "data" / "unpack.py"
    if not script.exists():
        pytest.skip("the full data sets are not at hand: ../shared/data is absent")
    out = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, script, out, "cifar100"], check=True, capture_output=True)
    return out
