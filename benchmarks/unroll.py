"""The differentiable inner loop against the usual form, side by side in one process (about 80 CPU seconds).

    python benchmarks/unroll.py [--width 32] [--repeats 3] [--steps 5 20]

The usual form of trajectory matching flattens all parameters into one vector, unflattens it inside every forward pass and keeps one graph
of all N steps; it is written out below as the reference. Ours are `unroll(memory="full")` (named parameters through torch.func.functional_call)
and `unroll(memory="adjoint")` (exact replay of one step at a time). Reported: the largest relative difference of the gradients from the
reference, CPU seconds for loss and gradient (the best of interleaved repeats), and the extra memory: the growth of the process's
resident size at its highest, measured in a fresh process for each case (Linux; elsewhere it is left out).
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from effdl_nb.condensation.unroll import parameters_of, unroll
from effdl_nb.networks import build

FORMS = ("reference", "full", "adjoint")


def problem(width: int, batch: int = 10):
    "(model, theta_0, target, images, labels, rate), the same for every form."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("convnet-3", 10, width=width)
        start = parameters_of(model)
        target = {k: v + 0.01 * torch.randn_like(v) for k, v in start.items()}
        images = torch.randn(batch, 3, 32, 32)
    return model, start, target, images.requires_grad_(), torch.arange(batch) % 10, torch.tensor(0.02, requires_grad=True)


def reference(model, start, images, labels, rate, steps):
    "One flat vector, one graph: theta_N as a flat vector."
    shapes, sizes = [v.shape for v in start.values()], [v.numel() for v in start.values()]

    def network(flat, x):
        pieces = [p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        for i in range(0, len(pieces) - 2, 4):
            x = F.conv2d(x, pieces[i], pieces[i + 1], padding=1)
            x = F.avg_pool2d(F.relu(F.group_norm(x, x.shape[1], pieces[i + 2], pieces[i + 3])), 2)
        return F.linear(x.flatten(1), pieces[-2], pieces[-1])

    flat = torch.cat([v.flatten() for v in start.values()]).requires_grad_()
    for _ in range(steps):
        g, = torch.autograd.grad(F.cross_entropy(network(flat, images), labels), flat, create_graph=True)
        flat = flat - rate * g
    return flat


def gradients(form: str, width: int, steps: int):
    "Gradient of the matching distance by images and rate."
    model, start, target, images, labels, rate = problem(width)
    goal = torch.cat([v.flatten() for v in target.values()])
    if form == "reference":
        end = reference(model, start, images, labels, rate, steps)
    else:
        end = torch.cat([v.flatten() for v in unroll(model, start, images, labels, rate, steps, memory=form).values()])
    return torch.autograd.grad((end - goal).square().sum(), [images, rate])


def resident() -> int | None:
    "Resident bytes of this process now, where the system tells."
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096 if path.exists() else None


def extra_memory(form: str, width: int, steps: int) -> float | None:
    "Growth of the resident size at its highest during one gradient, in MB; called in a fresh process."
    gradients(form, 8, 1)  # libraries and thread pools are loaded now
    before = resident()
    if before is None:
        return None
    peak, done = [before], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    gradients(form, width, steps)
    done.set()
    watcher.join()
    return (peak[0] - before) / 2**20


def in_fresh_process(form: str, width: int, steps: int) -> float | None:
    "`extra_memory` in a process of its own, so that no freed memory of another form is reused."
    answer = subprocess.run([sys.executable, __file__, "--memory-of", form, "--width", str(width), "--steps", str(steps)],
                            check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def compare(width: int, steps: int, repeats: int) -> dict:
    "One line of the table."
    seconds, found = {f: [] for f in FORMS}, {}
    for _ in range(repeats + 1):
        for form in FORMS:
            start = time.process_time()
            found[form] = gradients(form, width, steps)
            seconds[form].append(time.process_time() - start)
    off = {f: max(float((a - b).norm() / b.norm()) for a, b in zip(found[f], found["reference"], strict=True)) for f in FORMS}
    time_of = {f: min(v[1:]) for f, v in seconds.items()}  # the first round warms up
    return {"gradient": off, "seconds": time_of, "memory": {f: in_fresh_process(f, width, steps) for f in FORMS}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="channels of the ConvNet-3 (128 in the dissertation)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds, after one that warms up")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 20], help="values of N")
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        print(json.dumps(extra_memory(args.memory_of, args.width, args.steps[0])))
        return
    print(f"ConvNet-3, width {args.width}, 10 images, one thread, torch {torch.__version__}")
    print(f"{'N':>3} {'form':10} {'gradient off by':>16} {'CPU s':>8} {'of reference':>13} {'extra MB':>9} {'of reference':>13}")
    for steps in args.steps:
        row = compare(args.width, steps, args.repeats)
        for form in FORMS:
            memory, base = row["memory"][form], row["memory"]["reference"]
            shown = ("-", "-") if memory is None else (f"{memory:.0f}", f"{memory / base:.2f}")
            ratio = row["seconds"][form] / row["seconds"]["reference"]
            print(f"{steps:>3} {form:10} {row['gradient'][form]:>16.1e} {row['seconds'][form]:>8.2f} {ratio:>13.2f} {shown[0]:>9} {shown[1]:>13}")


if __name__ == "__main__":
    main()
