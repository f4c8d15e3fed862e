"""The differentiable inner loop: equality of its two memory modes, and misuse."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effdl_nb.condensation import unroll as module
from effdl_nb.condensation.images import augment, draw_augmentation
from effdl_nb.condensation.unroll import (
    choose_memory,
    estimate_memory,
    free_memory,
    parameters_of,
    unroll,
)
from effdl_nb.networks import build


def setting(dtype, seed=0):
    gen = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build("convnet-2", 3, width=6, image_size=8).to(dtype)
    start = parameters_of(model)
    target = {k: v + 0.1 * torch.randn(v.shape, generator=gen).to(dtype) for k, v in start.items()}
    images = torch.randn(6, 3, 8, 8, generator=gen).to(dtype).requires_grad_()
    return model, start, target, images, torch.tensor(0.05, dtype=dtype, requires_grad=True)


def distance(end, target):
    return sum((end[k] - target[k]).square().sum() for k in target)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("steps", [1, 10])
def test_adjoint_equals_full_through_augmentation(dtype, tolerance, steps):
    model, start, target, images, rate = setting(dtype)
    gen = torch.Generator().manual_seed(2)
    plan = [(torch.randperm(6, generator=gen)[:4], draw_augmentation(4, gen)) for _ in range(steps)]

    def prepare(i, x, y):
        index, draw = plan[i]
        return augment(x[index], draw), y[index]

    labels, grads = torch.arange(6) % 3, []
    for memory in ("full", "adjoint"):
        end = unroll(model, start, images, labels, rate, steps, prepare, memory)
        grads.append(torch.autograd.grad(distance(end, target), [images, rate]))
    for a, b in zip(*grads, strict=True):
        assert float((a - b).norm() / a.norm()) < tolerance


def test_gradcheck_of_the_adjoint():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    start = parameters_of(model)
    images = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.softmax(torch.randn(2, 2, dtype=torch.float64), 1).requires_grad_()
    rates = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64, requires_grad=True)

    def last(x, y, r):
        return unroll(model, start, x, y, r, 3, memory="adjoint")["3.weight"]

    assert torch.autograd.gradcheck(last, (images, labels, rates))


def test_only_what_is_asked_for_gets_a_gradient():
    model, start, target, images, rate = setting(torch.float32)
    fixed = images.detach()
    end = unroll(model, start, fixed, torch.arange(6) % 3, rate, 2, memory="adjoint")
    distance(end, target).backward()
    assert rate.grad is not None and fixed.grad is None


def test_values_are_those_of_sgd_and_modes_agree():
    model, start, _, images, rate = setting(torch.float64)
    labels, theta = (
        torch.arange(6) % 3,
        [p.detach().clone().requires_grad_() for p in start.values()],
    )
    for _ in range(3):
        loss = F.cross_entropy(
            torch.func.functional_call(
                model, dict(zip(start, theta, strict=True)), (images.detach(),)
            ),
            labels,
        )
        theta = [
            (p - rate.item() * g).detach().requires_grad_()
            for p, g in zip(theta, torch.autograd.grad(loss, theta), strict=True)
        ]
    for memory in ("full", "adjoint"):
        end = unroll(model, start, images, labels, rate, 3, memory=memory)
        for (name, v), p in zip(end.items(), theta, strict=True):
            torch.testing.assert_close(v.detach(), p.detach(), msg=name)


def test_misuse():
    model, start, _, images, rate = setting(torch.float32)
    labels = torch.arange(6) % 3
    with pytest.raises(ValueError, match="full, adjoint, tesla, auto"):
        unroll(model, start, images, labels, rate, 1, memory="auto?")
    with pytest.raises(ValueError, match="at least 1"):
        unroll(model, start, images, labels, rate, 0)
    with pytest.raises(ValueError, match="each of the 3 steps"):
        unroll(model, start, images, labels, torch.ones(2), 3)
    with pytest.raises(ValueError, match="name the model's parameters"):
        unroll(model, dict(list(start.items())[1:]), images, labels, rate, 1)
    with pytest.raises(ValueError, match="running statistics"):
        parameters_of(build("small-convnet", 3))
    with pytest.raises(ValueError, match="adjoint"):
        unroll(model, start, images, labels, rate, 1, memory="full", compiled=True)
    with pytest.raises(ValueError, match="images, channels, height, width"):
        estimate_memory(model, (4, 3, 8), 2)


def test_tesla_is_the_adjoint_without_the_hessian():
    # theta_2 = theta_0 - a (g_0 + g_1) with theta_1 inside g_1 held constant, written out with autograd
    model, start, target, images, rate = setting(torch.float64)
    labels = torch.arange(6) % 3

    def gradient(theta, create):
        loss = F.cross_entropy(torch.func.functional_call(model, theta, (images,)), labels)
        return dict(
            zip(
                theta,
                torch.autograd.grad(loss, list(theta.values()), create_graph=create),
                strict=True,
            )
        )

    theta0 = {k: v.clone().requires_grad_() for k, v in start.items()}
    g0 = gradient(theta0, True)
    theta1 = {k: (v - rate * g0[k]).detach().requires_grad_() for k, v in theta0.items()}
    g1 = gradient(theta1, True)
    by_hand = torch.autograd.grad(
        distance({k: v - rate * (g0[k] + g1[k]) for k, v in theta0.items()}, target), [images, rate]
    )
    end = unroll(model, start, images, labels, rate, 2, memory="tesla")
    for a, b in zip(
        torch.autograd.grad(distance(end, target), [images, rate]), by_hand, strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("memory", ["adjoint", "tesla"])
def test_compiled_steps_give_the_same_gradient(memory, monkeypatch):
    # traces as the real backend does, without a C++ compiler
    monkeypatch.setattr(module, "BACKEND", "aot_eager")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    start, images = (
        parameters_of(model),
        torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True),
    )
    labels = torch.softmax(torch.randn(2, 2, dtype=torch.float64), 1).requires_grad_()
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = []
    for compiled in (False, True):
        end = unroll(model, start, images, labels, rate, 3, memory=memory, compiled=compiled)
        found.append(
            torch.autograd.grad(sum(v.square().sum() for v in end.values()), [images, labels, rate])
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


PEAK = """
import json, threading, time
from pathlib import Path
import torch
from effdl_nb.condensation.unroll import estimate_memory, parameters_of, unroll
from effdl_nb.networks import build

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def watch(peak, ends):
    while not ends.is_set():
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)

torch.set_num_threads(1)
def run(memory, steps, width=32):
    model, x = build("convnet-3", 10, width=width), torch.randn(20, 3, 32, 32, requires_grad=True)
    end = unroll(model, parameters_of(model), x, torch.arange(20) % 10, torch.tensor(0.01), steps, memory=memory)
    sum(v.square().sum() for v in end.values()).backward()
    return estimate_memory(model, x.shape, steps)[memory]

run("full", 1, 4)  # libraries are loaded now
before, found = resident(), {}
for memory in ("adjoint", "full"):  # the smaller one first: the other reuses what it frees
    peak, ends = [before], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, ends))
    watcher.start()
    estimate = run(memory, 8)
    ends.set()
    watcher.join()
    found[memory] = estimate / (peak[0] - before)
print(json.dumps(found))
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="the resident size is read from Linux's /proc"
)
def test_the_estimate_is_near_the_growth_of_a_process():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    ratios = json.loads(answer.stdout.splitlines()[-1])
    assert all(1 / 1.5 < r < 1.5 for r in ratios.values()), ratios


def test_memory_is_chosen_by_what_is_free(monkeypatch):
    model, start, _, images, rate = setting(torch.float32)
    need = estimate_memory(model, images.shape, 8)
    assert need["tesla"] < need["adjoint"] < need["full"]
    assert need["adjoint"] - estimate_memory(model, images.shape, 7)["adjoint"] == 4 * sum(
        v.numel() for v in start.values()
    )
    for free, chosen in (
        (3 * need["full"], "full"),
        (1.5 * need["full"], "adjoint"),
        (need["adjoint"], "adjoint"),
        (None, "adjoint"),
    ):
        monkeypatch.setattr(module, "free_memory", lambda device, free=free: free)
        assert choose_memory("auto", model, images.shape, 8) == chosen
    monkeypatch.setattr(module, "free_memory", lambda device: need["tesla"])
    assert choose_memory("tesla", model, images.shape, 8) == "tesla"
    with pytest.raises(MemoryError, match=r"'adjoint' needs about .* MB are free"):
        unroll(model, start, images, torch.arange(6) % 3, rate, 8, memory="auto")


@pytest.mark.parametrize("names", module.CONTAINER)
def test_a_containers_limit_counts_and_cached_files_do_not(tmp_path, monkeypatch, names):
    limit, used, held, cache = names
    monkeypatch.setattr(module, "CGROUPS", tmp_path)
    for name, text in (
        (limit, "1000000\n"),
        (used, "990000\n"),
        (held, f"anon 40000\n{cache} 900000\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory() == 910000
    (tmp_path / held).write_text("anon 40000\n")
    assert free_memory() == 10000
    (tmp_path / used).write_text("2000000\n")
    assert free_memory() == 0
    (tmp_path / limit).write_text("max\n")
    assert free_memory() is None or free_memory() > 1000000


@pytest.mark.parametrize("memory", ["full", "adjoint", "tesla"])
def test_a_step_may_leave_the_synthetic_images_out(memory):
    model, start, target, images, rate = setting(torch.float64)
    other, labels = torch.randn_like(images).detach(), torch.arange(6) % 3

    def prepare(i, x, y):
        return (other if i == 1 else x), y

    slope, by_rate = torch.autograd.grad(
        distance(unroll(model, start, images, labels, rate, 2, prepare, memory), target),
        [images, rate],
    )
    (wanted,) = torch.autograd.grad(
        distance(unroll(model, start, images, labels, rate, 2, prepare, "full"), target), images
    )
    assert (
        slope.norm() > 0
        and torch.isfinite(by_rate)
        and (memory == "tesla" or torch.allclose(slope, wanted, rtol=1e-9, atol=0))
    )


@pytest.mark.parametrize(
    ("layer", "words"),
    [(nn.Dropout(0.5), "dropout would not"), (nn.BatchNorm1d(3), "running statistics")],
)
def test_a_network_that_would_not_repeat_its_steps_is_refused(layer, words):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), layer)
    start = {k: v.detach() for k, v in model.named_parameters()}
    with pytest.raises(ValueError, match=words):
        unroll(model, start, torch.randn(6, 1, 2, 2), torch.arange(6) % 3, torch.tensor(0.1), 2)


def test_free_memory_is_a_number_here():
    free = free_memory()
    assert free is None or free > 0
