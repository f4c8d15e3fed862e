"""The memory of the inner loop: the estimate beside a process's growth, the choice, containers."""

import json
import os
import subprocess
import sys

import pytest
import torch

from effdl_nb.condensation import memory as module
from effdl_nb.condensation.memory import (
    check_whitening,
    choose_memory,
    estimate_memory,
    free_memory,
    whitening_memory,
)
from effdl_nb.networks import build

SHAPE = (6, 3, 8, 8)

PEAK = """
import json, threading, time
from pathlib import Path
import torch
from effdl_nb.condensation.memory import estimate_memory
from effdl_nb.condensation.unroll import parameters_of, unroll
from effdl_nb.networks import build

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def watch(peak, ends):
    while not ends.is_set():
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)

torch.set_num_threads(1)
labels, lr = torch.arange(20) % 10, torch.tensor(0.01)

def run(memory, steps, width=32):
    model = build("convnet-3", 10, width=width)
    images = torch.randn(20, 3, 32, 32, requires_grad=True)
    theta = unroll(model, parameters_of(model), images, labels, lr, steps, memory=memory)
    sum(v.square().sum() for v in theta.values()).backward()
    return estimate_memory(model, images.shape, steps)[memory]

run("full", 1, 4)  # libraries are loaded now
before, ratios = resident(), {}
for memory in ("adjoint", "full"):  # the smaller one first: the other reuses what it frees
    peak, ends = [before], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, ends))
    watcher.start()
    estimate = run(memory, 8)
    ends.set()
    watcher.join()
    ratios[memory] = estimate / (peak[0] - before)
print(json.dumps(ratios))
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="the resident size is read from Linux's /proc"
)
def test_the_estimate_is_near_the_growth_of_a_process():
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    ratios = json.loads(answer.stdout.splitlines()[-1])
    assert all(1 / 1.5 < r < 1.5 for r in ratios.values()), ratios


def test_memory_is_chosen_by_what_is_free(monkeypatch):
    model = build("convnet-2", 3, width=6, image_size=8)
    need = estimate_memory(model, SHAPE, 8)
    assert need["tesla"] < need["adjoint"] < need["full"]
    parameters = 4 * sum(p.numel() for p in model.parameters())
    assert need["adjoint"] - estimate_memory(model, SHAPE, 7)["adjoint"] == parameters
    for free, chosen in (
        (3 * need["full"], "full"),
        (1.5 * need["full"], "adjoint"),
        (need["adjoint"], "adjoint"),
        (None, "adjoint"),
    ):
        monkeypatch.setattr(module, "free_memory", lambda device, free=free: free)
        assert choose_memory("auto", model, SHAPE, 8) == chosen
    monkeypatch.setattr(module, "free_memory", lambda device: need["tesla"])
    assert choose_memory("tesla", model, SHAPE, 8) == "tesla"
    with pytest.raises(MemoryError, match=r"'adjoint' needs about .* MB are free"):
        choose_memory("auto", model, SHAPE, 8)


def test_misuse():
    model = build("convnet-2", 3, width=6, image_size=8)
    with pytest.raises(ValueError, match="full, adjoint, tesla, auto"):
        choose_memory("auto?", model, SHAPE, 1)
    with pytest.raises(ValueError, match="images, channels, height, width"):
        estimate_memory(model, (4, 3, 8), 2)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        estimate_memory(model, SHAPE, 0)


@pytest.mark.parametrize("names", module.CONTAINER)
def test_a_containers_limit_counts_and_cached_files_do_not(tmp_path, monkeypatch, names):
    limit, used, details, cache = names
    monkeypatch.setattr(module, "CGROUPS", tmp_path)
    contents = {limit: "1000000\n", used: "990000\n", details: f"anon 40000\n{cache} 900000\n"}
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory() == 910000
    (tmp_path / details).write_text("anon 40000\n")
    assert free_memory() == 10000
    (tmp_path / used).write_text("2000000\n")
    assert free_memory() == 0
    (tmp_path / limit).write_text("max\n")
    assert free_memory() is None or free_memory() > 1000000


def test_free_memory_is_a_number_here():
    free = free_memory()
    assert free is None or free > 0


def test_the_estimate_draws_no_random_numbers():
    model = build("convnet-2", 3, width=6, image_size=8)
    before = torch.get_rng_state()
    estimate_memory(model, SHAPE, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_matrices_of_zca_and_a_copy_of_the_images():
    shape = (10, 3, 8, 8)
    copy, matrix = 10 * 192 * 4, 192 * 192 * 4
    assert whitening_memory(shape, "channel") == copy
    assert whitening_memory(shape, "zca") == copy + 5 * matrix
    assert whitening_memory(shape, "zca", copy=False) == 5 * matrix
    assert whitening_memory((5000, 3, 96, 96), "zca") > 15e9


@pytest.mark.parametrize(
    ("free", "kind", "words"),
    [
        (2**20, "zca", "'zca' of 10 images of 96 x 96 pixels needs about .* MB; 1 MB are free"),
        (2**22, "zca", "use whitening='channel', which needs 1 MB"),
        (2**10, "channel", "use fewer or smaller images"),
    ],
)
def test_whitening_that_does_not_fit(monkeypatch, free, kind, words):
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    with pytest.raises(MemoryError, match=words):
        check_whitening((10, 3, 96, 96), kind)


def test_whitening_that_fits_or_cannot_be_compared(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: 2**22)
    check_whitening((10, 3, 96, 96), "channel")
    monkeypatch.setattr(module, "free_memory", lambda device: None)
    check_whitening((10**9, 3, 96, 96), "zca")
