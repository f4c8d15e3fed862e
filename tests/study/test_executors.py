"Jobs on other machines: which executor is meant, a lost worker, a parent that died."

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from toy_study import ALL, ROOT, Toy, wait_for

sys.path.insert(0, str(ROOT / "workflow"))
from executors import executor_of, profile_of  # noqa: E402

pytest_generic = pytest.mark.skipif(
    sys.platform == "win32", reason="the batch system of the test is a shell script"
)


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Toy:
    monkeypatch.setenv("EFFDL_JOBS", str(tmp_path / "jobs"))
    toy = Toy(tmp_path)
    toy.profile(jobs="row", changed="mark")
    return toy


@pytest.mark.parametrize(
    "options, executor",
    [
        (["--executor", "slurm"], "slurm"),
        (["--executor=slurm", "--jobs", "4"], "slurm"),
        (["-e", "slurm"], "slurm"),
        (["-eslurm"], "slurm"),
        (["--jobs", "3", "--workflow-profile", "FOLDER"], "cluster-generic"),
        (["--profile=FOLDER"], "cluster-generic"),
        (["--workflow-profile", "FOLDER", "-e", "slurm"], "slurm"),
        (["--workflow-profile", "none"], None),
        (["--executor", "local"], None),
        (["--jobs", "3", "--", "executor"], None),
        ([], None),
    ],
)
def test_every_way_to_name_an_executor(options, executor):
    folder = str(ROOT / "workflow" / "profiles" / "cluster-generic")
    assert executor_of([word.replace("FOLDER", folder) for word in options]) == executor


def test_an_unknown_executor_tells_the_known():
    with pytest.raises(ValueError, match="cluster-generic, slurm"):
        profile_of("pigeons")


def workers(toy) -> list[psutil.Process]:
    "Kernels of this toy that were sent away."
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        own = (process.info["environ"] or {}).get("EFFDL_ROOT") == str(toy.root)
        if own and "ipykernel" in words:
            found.append(process)
    return found


@pytest_generic
@pytest.mark.timeout(400)
def test_a_lost_worker_is_replaced_and_nothing_is_measured_twice(toy):
    toy.profile(", row_settings: {seven: {wait: 6}}", jobs="row", changed="mark")
    process = toy.start("--executor", "cluster-generic")
    wait_for(toy, process, "seven:1")
    time.sleep(1)
    lost = workers(toy)
    assert lost, "the measuring job is not to be found"
    sessions = {os.getsid(one.pid) for one in lost}
    for member in [p for p in psutil.process_iter() if os.getsid(p.pid) in sessions]:
        member.kill()  # as when a node goes down
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    calls = toy.calls()
    assert sorted(set(calls)) == sorted(ALL) and calls.count("seven:0") == 1
    assert toy.there() == ["one", "seven", "three"]


@pytest_generic
@pytest.mark.timeout(400)
def test_jobs_that_outlive_a_killed_parent_are_not_measured_again(toy):
    toy.profile(", row_settings: {seven: {wait: 12}}", jobs="row", changed="mark")
    process = toy.start("--executor", "cluster-generic")
    wait_for(toy, process, "seven:0")
    for one in (process.pid, *[p.pid for p in psutil.Process(process.pid).children(True)]):
        os.kill(one, signal.SIGKILL)  # the parent and Snakemake; the jobs are elsewhere
    process.communicate(timeout=60)
    assert workers(toy), "the job should still be at work"
    status, said = toy.run("--executor", "cluster-generic")
    assert status == 0, said
    calls = toy.calls()
    assert calls.count("seven:0") == 1 and calls.count("seven:1") == 1
    assert toy.there() == ["one", "seven", "three"]


@pytest_generic
def test_the_batch_system_of_one_machine(tmp_path):
    script = ROOT / "workflow" / "profiles" / "cluster-generic" / "jobs.sh"
    environment = os.environ | {"EFFDL_JOBS": str(tmp_path / "jobs")}

    def ask(*words: str) -> str:
        done = subprocess.run(
            [script, *words], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def ends(text: str) -> str:
        (tmp_path / "job.sh").write_text(text)
        job = ask("send", str(tmp_path / "job.sh"))
        end = time.monotonic() + 20
        while (state := ask("state", job)) == "running" and time.monotonic() < end:
            time.sleep(0.1)
        return state

    assert ends("exit 0") == "success" and ends("exit 3") == "failed"
    assert ends("kill -9 $PPID") == "failed"
    (tmp_path / "job.sh").write_text("sleep 60")
    job = ask("send", str(tmp_path / "job.sh"))
    assert ask("state", job) == "running"
    ask("end", job)
    end = time.monotonic() + 20
    while (state := ask("state", job)) == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert state == "failed"


SLURM = ("munged", "slurmctld", "slurmd", "sbatch")
SBIN = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
LACKING = [f"no {name}" for name in SLURM if shutil.which(name, path=SBIN) is None]
if not os.access("/etc/slurm", os.W_OK) or Path("/etc/slurm/slurm.conf").exists():
    LACKING.append("/etc/slurm is not ours to write")


@pytest.fixture
def slurm(tmp_path):
    "A SLURM of this machine alone."
    script = ROOT / "workflow" / "profiles" / "slurm" / "node.sh"
    started = subprocess.run([script, "start", tmp_path / "node"], capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    yield
    subprocess.run([script, "stop", tmp_path / "node"], check=True)


@pytest.mark.skipif(bool(LACKING), reason=f"no SLURM can be started: {', '.join(LACKING)}")
@pytest.mark.timeout(900)
def test_three_rows_on_a_slurm_of_one_node(toy, slurm):
    process = toy.start("--executor", "slurm")
    said, _ = process.communicate(timeout=800)
    assert process.returncode == 0, said
    assert sorted(toy.calls()) == sorted(ALL)
    assert toy.there() == ["one", "seven", "three"]
    assert (toy.root / "reports" / "toy" / "index.html").exists()
