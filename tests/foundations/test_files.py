"Files survive writers that are killed, and processes that race."

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effdl_nb.files import atomic_write, check_target, lock, read_json, settings_hash, write_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_what_is_written_is_read(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert settings_hash(read_json(path)) == settings_hash(value)


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=5))
def test_the_hash_does_not_depend_on_order(record):
    assert settings_hash(record) == settings_hash(dict(reversed(record.items())))


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "row.json"
    write_json(path, {"mean": 1})
    code = (
        "import sys, time; from effdl_nb.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as part:\n"
        "    f = open(part, 'w'); f.write('{\"me'); f.flush(); print('writing', flush=True); "
        "time.sleep(60)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
    assert read_json(path) == {"mean": 1}


def test_a_failed_write_leaves_no_litter(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_the_usual_ones(tmp_path):
    with atomic_write(tmp_path / "a.txt") as part:
        part.write_text("x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def _add_one(path, turns):
    for _ in range(turns):
        with lock(path):
            value = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(value + 1))


def test_a_lock_has_one_holder_among_processes(tmp_path):
    path = tmp_path / "counter"
    path.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_one, args=(path, 50)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert path.read_text() == "150"  # without the lock updates are lost


def test_a_lock_goes_with_its_holder(tmp_path):
    path = tmp_path / "experts"
    code = (
        "import sys, time; from effdl_nb.files import lock\n"
        "with lock(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError, match="experts"), lock(path, timeout=0.1):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    with lock(path, timeout=5):
        pass


@pytest.mark.parametrize("content", ["", '{"mean": 7', "\x00\x01"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "row.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="row.json is not a JSON file"):
        read_json(path)


def test_a_target_that_cannot_be_made_is_said_beforehand(tmp_path):
    (tmp_path / "taken").write_text("mine")
    check_target(tmp_path / "new" / "deeper" / "file")
    check_target(tmp_path / "taken")  # to replace it or not is the caller's question
    for wrong, words in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "taken" / "file", "taken is a file"),
        ("/proc/1/file", "cannot be written to"),
    ):
        with pytest.raises(ValueError, match=words):
            check_target(wrong)
