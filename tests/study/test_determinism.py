"""A promise: a row is the same to the bit wherever and however it is measured on one processor.

Here: under two hash seeds, in two folders, from two working folders, straight and after a kill.
Several seeds or columns at once, Snakemake and notebooks are in `test_workflow.py` and
`tests/faults`; thread counts and kinds of processor may differ, and stand in the provenance.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from effdl_nb.provenance import project_root

ROWS = {"table_2_3": "ternary", "table_3_2": "deepaa,dada", "table_4_1": "mtt,dm"}
MEASURE = """
import json, sys
from effdl_nb import study
rows = json.loads(sys.argv[1])
for table, keys in rows.items():
    study.run(table, sys.argv[2], rows=keys, reports=sys.argv[3]).check()
"""


def start(folder, hash_seed: str, cwd) -> subprocess.Popen:
    profile = project_root() / "tests" / "profiles" / "tiny.yaml"
    command = [sys.executable, "-W", "ignore", "-c", MEASURE]
    command += [json.dumps(ROWS), str(profile), str(folder)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    environment |= {"EFFDL_ROOT": str(project_root()), "TQDM_DISABLE": "1"}
    return subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.DEVNULL)


def measured(folder) -> dict:
    "What is measured, without what tells of the time and the place."
    found = {}
    for path in sorted(folder.glob("tiny/rows/*/*.json")):
        for m in json.loads(path.read_text())["measurements"]:
            found[path.stem, m["seed"], *m["columns"]] = m["metrics"], m["hash"], m["code"]
    return found


@pytest.mark.timeout(600)
def test_another_hash_seed_folder_and_a_kill_leave_every_bit(tmp_path):
    straight, killed, elsewhere = (tmp_path / name for name in ("straight", "killed", "cwd"))
    elsewhere.mkdir()
    assert start(straight, "1", tmp_path).wait() == 0
    first = start(killed, "2", elsewhere)
    end = time.monotonic() + 300
    while not list(killed.glob("tiny/rows/table_3_2/*.json")):  # in the middle of the second table
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = measured(killed)
    assert start(killed, "3", elsewhere).wait() == 0
    wanted = measured(straight)
    assert len(wanted) == 5 and measured(killed) == wanted
    assert before.items() <= wanted.items()
