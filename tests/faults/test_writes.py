"Every write of a run fails once, one after another; after each, what is kept is whole."

import errno
import os
import shutil

import pytest
import torch
from faults.harness import count, everything_is_whole, many
from faults.study import Toy
from toys import toy as toy_images

from effdl_nb import files
from effdl_nb.study import RowsFailed

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)


class Failing:
    "The operations of the system by which files are written; the n-th of them raises once."

    def __init__(self, monkeypatch, at: int, error: int):
        self.calls, self.at, self.error, self.failed = 0, at, error, None
        for owner, name in (
            (os, "replace"),
            (os, "fsync"),
            (files.tempfile, "mkstemp"),
            (files.tempfile, "mkdtemp"),
            (files.Path, "write_bytes"),
            (files.Path, "write_text"),
            (files.Path, "chmod"),
            (files.Path, "unlink"),
        ):
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name), name))

    def wrapped(self, operation, name: str):
        def call(*args, **options):
            self.calls += 1
            if self.calls == self.at:
                self.failed = name
                raise OSError(self.error, os.strerror(self.error))
            return operation(*args, **options)

        return call


def every_write(work, check, monkeypatch, most: int) -> int:
    "Let each write of `work` fail once, with each error; how many failed."
    failures = 0
    for error in ERRORS:
        for at in range(1, most + 1):
            with monkeypatch.context() as patch:
                failing = Failing(patch, at, error)
                try:
                    work()
                except (OSError, RowsFailed) as raised:
                    words = os.strerror(error)
                    assert words in str(raised), raised
                if failing.failed is None:  # the run has fewer writes than that
                    break
            failures += 1
            check()
    return failures


def test_a_row_survives_every_failed_write(tmp_path, monkeypatch):
    toy = Toy(tmp_path / "toy", seeds=2)
    toy.enter()

    def check():
        everything_is_whole(toy.root / "reports")
        toy.run()  # there is room again
        assert len(toy.kept()) == 2
        everything_is_whole(toy.root / "reports")
        toy.forget()

    failures = every_write(toy.run, check, monkeypatch, many(8, 400))
    count("writes that fail, rows", tried=failures, lost=0)


def test_a_condensation_survives_every_failed_write(tmp_path, monkeypatch):
    from effdl_nb.condensation.condensing import condense

    how = {"network": "convnet-2", "preset": "small", "progress": False, "checkpoint_every": 2}
    how |= {"width": 4, "iterations": 2, "experts": {"count": 1, "epochs": 2, "batch_size": 15}}
    how |= {"student_steps": 1, "expert_steps": 1, "first_start": 0, "max_start": 0}
    folder, straight = tmp_path / "work", []

    def work():
        torch.set_num_threads(1)
        return condense(toy_images(), "mtt", work=folder, **how).images

    straight.append(work())
    shutil.rmtree(folder)

    def check():
        if folder.exists():
            everything_is_whole(folder)
        assert torch.equal(work(), straight[0])
        shutil.rmtree(folder)

    failures = every_write(work, check, monkeypatch, many(3, 400))
    count("writes that fail, condensations", tried=failures, lost=0)


def test_a_killed_writer_is_swept_up_after(tmp_path):
    import signal

    from faults.harness import child

    def work():
        with files.atomic_write(tmp_path / "row.json") as part:
            part.write_text("half")
            signal.pause()

    pid = child(work)
    while not list(tmp_path.glob(".row.json.*.part")):
        pass
    with files.atomic_write(tmp_path / "row.json") as part:
        part.write_text("whole")
    assert len(list(tmp_path.glob(".row.json.*.part"))) == 1, "the other writer lives"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    files._SWEPT.clear()
    with files.atomic_write(tmp_path / "row.json") as part:
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


@pytest.mark.parametrize("days", [-4000, 4000])
def test_files_dated_otherwise_are_measured_all_the_same(tmp_path, days):
    import time

    toy = Toy(tmp_path / "toy", seeds=2)
    toy.enter()
    toy.run()
    values, then = toy.values(), time.time() + days * 86400
    for path in toy.root.rglob("*"):
        os.utime(path, (then, then))
    from effdl_nb import study

    done = toy.root / "reports" / "toy" / "done" / "table_9_1" / "a"
    done.parent.mkdir(parents=True)
    done.touch()
    os.utime(done, (then, then))
    (toy.root / "reports" / "toy" / "rows" / "table_9_1" / "a.json").unlink()
    assert study.write_plans("toy") == {"table_9_1": ["a"]}
    wish = toy.root / "reports" / "toy" / "plans" / "table_9_1" / "a.json"
    assert wish.stat().st_mtime >= done.stat().st_mtime, "the wish is newer than what is there"
    toy.run()
    assert toy.values() == values


def test_a_mount_without_locks_has_one_holder_too(tmp_path, monkeypatch):
    def none(descriptor, **how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "lock_descriptor", none)
    with files.lock(tmp_path / "a"):
        with (
            pytest.raises(files.Held, match="a.lock.held names it"),
            files.lock(tmp_path / "a", 0.1),
        ):
            pass
    with files.lock(tmp_path / "a", 0.1):
        pass


def test_a_full_temporary_folder_is_named(monkeypatch):
    from effdl_nb import decoding

    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=f"No space left.*{files.tempfile.gettempdir()}"):
        decoding._empty((1 << 20, 32, 32, 3))
