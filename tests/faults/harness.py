"What the fault tests share: how much is tried, children that are killed, what is counted."

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import effdl_nb.files as files
from effdl_nb.checkpoints import Kept, open_tensors  # noqa: F401

FULL = os.environ.get("EFFDL_FAULTS") == "full"  # as `make faults` sets it
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def many(few: int, all_of_them: int) -> int:
    "How often something is tried: by `make test`, and by `make faults`."
    return all_of_them if FULL else few


def count(what: str, **numbers: int):
    "Note what was tried and what came of it, for the table of `make faults`."
    if place := os.environ.get("EFFDL_FAULT_FIGURES"):
        with open(place, "a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **numbers}) + "\n")


def child(work: Callable[[], object]) -> int:
    "Start a child that works and ends with status 0, or with 1 if it raises; its number."
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    try:
        for number in SIGNALS[1:]:
            signal.signal(number, signal.SIG_DFL)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def killed(work: Callable[[], object], after: float, how: int) -> bool:
    "Let a child work and kill it after a time; whether it had ended before. It must not fail."
    pid, end = child(work), time.monotonic() + after
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0, f"the child failed: {status}"
            return True
        if time.monotonic() > end:
            os.kill(pid, how)
            _, status = os.waitpid(pid, 0)
            assert os.WIFSIGNALED(status) or status == 0, f"the child failed: {status}"
            return not os.WIFSIGNALED(status)
        time.sleep(0.001)


def survive(work: Callable, check: Callable, again: Callable, kills: int, seed: int = 0) -> int:
    """Kill `work` at random moments until so many kills hit it.

    After each, `check` looks at what is kept; whenever it ended by itself, `again` compares what it
    made and begins anew. The time to the kill is drawn below that of a whole run. How often it
    ended."""
    draw, hits, ended, begin = random.Random(seed), 0, 0, time.monotonic()
    assert killed(work, 600, signal.SIGKILL)
    whole = time.monotonic() - begin
    again()
    while hits < kills:
        if killed(work, draw.uniform(0, 1.1 * whole), draw.choice(SIGNALS)):
            ended += 1
            again()
        else:
            hits += 1
            check()
    assert killed(work, 600, signal.SIGKILL)
    again()
    return ended + 2


def orphans(folder: Path) -> list[Path]:
    "Temporary files that nobody will remove: those of a writer that is no more."
    return [path for path in folder.rglob(".*.part") if not files._hold(os.open(path, os.O_RDONLY))]


def everything_is_whole(folder: Path):
    "Every record and every file of tensors below a folder is whole; half ones are hidden."
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".json":
            files.read_kept(path)
        elif path.suffix in (".safetensors", ".checkpoint", ".proxy", ".search"):
            from effdl_nb.checkpoints import _compare_seal

            assert _compare_seal(path.absolute()), path
