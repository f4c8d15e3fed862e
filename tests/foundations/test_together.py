"Processes that train together: one lock for all, one answer, and an error where they differ."

import threading
import time

import pytest
import shared_trainings
from ranks import run_ranks

from effdl_nb import together
from effdl_nb.files import lock


def test_processes_wait_for_another_program_and_see_what_it_made(tmp_path):
    raised = []
    group = threading.Thread(
        target=lambda: raised.extend(run_ranks(shared_trainings.locked, tmp_path))
    )
    with lock(tmp_path / "made"):
        group.start()
        time.sleep(3)  # they may be at the lock by now; they must not be past it
        assert not list(tmp_path.glob("there.*"))
        (tmp_path / "made").touch()
    group.join()
    assert [(tmp_path / f"there.{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
    assert (
        raised and "RuntimeError: a step must be the same in all processes, not 0, 1" in raised[0]
    )


def test_the_group_hears_from_the_first_process_while_it_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(together, "PATIENCE", 0.05)
    told = []
    monkeypatch.setattr(together, "told_by_all", lambda value: told.append(value) or [value, None])

    def take():
        with together.lock_together(tmp_path / "made") as is_there:
            told.append(("in", is_there))

    waiting = threading.Thread(target=take)
    with lock(tmp_path / "made"):
        waiting.start()
        end = time.monotonic() + 60
        while told.count(None) < 4 and time.monotonic() < end:
            time.sleep(0.01)
    waiting.join()
    assert told[:4] == [None] * 4 and told[-3:] == [False, ("in", False), None]


def test_what_cannot_be_shared_says_so_and_what_to_do(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="must be 1 for a search, not 2: .* separate jobs"):
        together.check_alone("a search")
    with pytest.raises(KeyError), together.apart():
        together.check_alone("a search")
        raise KeyError
    with pytest.raises(RuntimeError):
        together.check_alone("a search")
