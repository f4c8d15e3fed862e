"""The engine of Chapter 4 against the usual ways, side by side in one process.

    python benchmarks/condensation.py [--width 32] [--steps 5 20] [--repeats 5] [--compiled]
        [--only inner operations experts iatm]

It takes about five CPU minutes, more with --compiled.

inner: the usual form of trajectory matching flattens all parameters into one vector, unflattens it
inside every forward pass and keeps one graph of all N steps; it is written out below as the
reference. Ours are `unroll(memory="full")` (named parameters through torch.func.functional_call),
"adjoint" (exact replay of one step at a time), "tesla" (not exact) and, with --compiled, the
adjoint with compiled steps (compilation, a minute or more, is not timed). Reported: relative
difference of the gradient of images and learning rate from the reference, CPU seconds for loss and
gradient, and extra memory: the growth of the process's resident size at its highest, in a fresh
process for each form (Linux; elsewhere left out). The adjoint takes 4/3 of the full graph's
products with kernels (counted in nbs/04_condensation/11_memory.ipynb); both of ours gain what the
reference spends on second derivatives of pooling and instance norm.
operations: these two by themselves, by hand (nbs/04_condensation/06_derivatives.ipynb) against
torch's own: forward pass, first derivative kept for another, second derivative.
experts: images per second of `train_expert` in fp32 and bf16, of a plain loop over a DataLoader,
and of four experts in one graph (torch.func.vmap).
iatm: time of a matching step with the importance-aware loss over one with Eq 4.1, components
opening as they do by default, and with all of them analysed anew in every step (the worst case).

All ratios are medians over interleaved repeats, with the quartiles; the reference's own repeats are
the denominators.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.data import DataLoader, TensorDataset

from effdl_nb.condensation import trajectory
from effdl_nb.condensation.derivatives import average_pool, instance_norm
from effdl_nb.condensation.experts import ExpertConfig, train_expert, train_experts
from effdl_nb.condensation.images import ChannelWhitening, siamese_augment
from effdl_nb.condensation.memory import estimate_memory
from effdl_nb.condensation.real import RealImages
from effdl_nb.condensation.unroll import parameters_of, unroll
from effdl_nb.networks import build

FORMS = {
    "reference": None,
    "full": {"memory": "full"},
    "adjoint": {"memory": "adjoint"},
    "tesla": {"memory": "tesla"},
    "adjoint, compiled": {"memory": "adjoint", "compiled": True},
}


def problem(width: int, batch: int = 10):
    "(model, theta_0, target, images, labels, lr), the same for every form."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("convnet-3", 10, width=width)
        start = parameters_of(model)
        target = {k: v + 0.01 * torch.randn_like(v) for k, v in start.items()}
        images = torch.randn(batch, 3, 32, 32)
    return (
        model,
        start,
        target,
        images.requires_grad_(),
        torch.arange(batch) % 10,
        torch.tensor(0.02, requires_grad=True),
    )


def reference(start, images, labels, lr, steps):
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
        (g,) = torch.autograd.grad(
            F.cross_entropy(network(flat, images), labels), flat, create_graph=True
        )
        flat = flat - lr * g
    return flat


def gradients(form: str, problem, steps: int):
    "Gradient of the matching distance by images and learning rate."
    model, start, target, images, labels, lr = problem
    goal = torch.cat([v.flatten() for v in target.values()])
    if form == "reference":
        end = reference(start, images, labels, lr, steps)
    else:
        theta = unroll(model, start, images, labels, lr, steps, **FORMS[form])
        end = torch.cat([v.flatten() for v in theta.values()])
    return torch.autograd.grad((end - goal).square().sum(), [images, lr])


def timed(actions: dict, repeats: int) -> tuple[dict, dict]:
    "({name: CPU seconds of each interleaved repeat}, {name: last result}); a first round warms up."
    seconds, results = {k: [] for k in actions}, {}
    for r in range(repeats + 1):
        for name, action in actions.items():
            start = time.process_time()
            results[name] = action()
            if r:
                seconds[name].append(time.process_time() - start)
    return seconds, results


def ratio(numerator: list[float], denominator: list[float]) -> str:
    "Median of the repeats' ratios, with the quartiles."
    each = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def resident() -> int | None:
    "Resident bytes of this process now, where the system tells."
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else None


def extra_memory(form: str, width: int, steps: int) -> float | None:
    "Measure the peak growth of the resident size in one gradient, in MB, in a fresh process."
    gradients(form, problem(8), 1)  # libraries and thread pools are loaded now
    before, given = resident(), problem(width)
    if before is None:
        return None
    peak, done = [before], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    gradients(form, given, steps)
    done.set()
    watcher.join()
    return (peak[0] - before) / 2**20


def in_fresh_process(form: str, width: int, steps: int) -> float | None:
    "`extra_memory` in a process of its own, so that no freed memory of another form is reused."
    answer = subprocess.run(
        [
            sys.executable,
            __file__,
            "--memory-of",
            form,
            "--width",
            str(width),
            "--steps",
            str(steps),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def inner(args):
    "The inner loop: gradient, time and memory of every form."
    forms = [f for f in FORMS if args.compiled or "compiled" not in f]
    given = problem(args.width)
    print(
        f"{'N':>3} {'form':18} {'gradient off by':>16} {'CPU s':>7} {'time of reference':>20} "
        f"{'extra MB':>9} {'estimated':>10} {'of reference':>13}"
    )
    for steps in args.steps:
        seconds, found = timed(
            {f: lambda f=f, n=steps: gradients(f, given, n) for f in forms}, args.repeats
        )
        estimate, base = estimate_memory(given[0], given[3].shape, steps), None
        for f in forms:
            off = max(
                float((a - b).norm() / b.norm())
                for a, b in zip(found[f], found["reference"], strict=True)
            )
            memory = None if "compiled" in f else in_fresh_process(f, args.width, steps)
            base = memory if f == "reference" else base
            shown = ("-", "-") if memory is None else (f"{memory:.0f}", f"{memory / base:.2f}")
            guess = f"{estimate[f] / 2**20:.0f}" if f in estimate else "-"
            print(
                f"{steps:>3} {f:18} {off:>16.1e} {statistics.median(seconds[f]):>7.2f} "
                f"{ratio(seconds[f], seconds['reference']):>20} "
                f"{shown[0]:>9} {guess:>10} {shown[1]:>13}"
            )


def operations(args):
    "Pooling and instance norm by hand against torch's own."
    weight, bias = (torch.rand(args.width, requires_grad=True) for _ in range(2))
    forms = {
        "pool": (lambda x: average_pool(x, 2), lambda x: F.avg_pool2d(x, 2)),
        "norm": (
            lambda x: instance_norm(x, weight, bias),
            lambda x: F.group_norm(x, args.width, weight, bias),
        ),
    }

    def passes(operation, x, given):
        y = operation(x)
        slope = torch.ones_like(y, requires_grad=True)

        def first():
            return torch.autograd.grad(y, given, slope, create_graph=True)

        kept = first()
        again = [slope, *given[:-1]] if len(given) > 1 else [slope]
        return {
            "forward": lambda: operation(x),
            "first": first,
            "second": lambda: torch.autograd.grad(
                kept, again, [torch.ones_like(v) for v in kept], retain_graph=True
            ),
        }

    for size in (32, 16, 8):
        x = torch.randn(10, args.width, size, size, requires_grad=True)
        for name, pair in forms.items():
            ours, theirs = (
                passes(f, x, [x, weight, bias] if name == "norm" else [x]) for f in pair
            )
            shown = []
            for which in ours:
                seconds, _ = timed({"ours": ours[which], "torch": theirs[which]}, 20 * args.repeats)
                shown.append(
                    f"{which} {1e3 * statistics.median(seconds['ours']):.2f} ms, of torch's "
                    f"{ratio(seconds['ours'], seconds['torch'])}"
                )
            print(f"{name}, {size} x {size}: " + "; ".join(shown))


def experts(args):
    "Training of experts: images per second."
    count, width = args.images, args.width
    gen = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, 3, 32, 32, generator=gen), torch.arange(count) % 10

    def plain():
        model, draws = (
            build("convnet-3", 10, width=width, norm="instance"),
            torch.Generator().manual_seed(0),
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for x, y in DataLoader(TensorDataset(images, labels), batch_size=256, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(siamese_augment(x, draws)), y).backward()
            optimizer.step()

    def ours(precision):
        return lambda: train_expert(
            images,
            labels,
            10,
            ExpertConfig(width=width, epochs=1, precision=precision),
            device="cpu",
        )

    def together(several=4):
        models = [build("convnet-3", 10, width=width, norm="instance") for _ in range(several)]
        theta, draws = (
            {k: v.detach() for k, v in stack_module_state(models)[0].items()},
            torch.Generator().manual_seed(0),
        )
        slope = vmap(grad(lambda t, x, y: F.cross_entropy(functional_call(models[0], t, (x,)), y)))
        for part in torch.arange(count // several * several).view(several, -1).split(256, 1):
            g = slope(
                theta, torch.stack([siamese_augment(images[p], draws) for p in part]), labels[part]
            )
            theta = {k: v - 0.01 * g[k] for k, v in theta.items()}

    seconds, _ = timed(
        {"plain": plain, "fp32": ours("fp32"), "bf16": ours("bf16"), "four at once": together},
        args.repeats,
    )
    for name, s in seconds.items():
        print(
            f"experts, {name:13} {count / statistics.median(s):>7.0f} images a second, times the "
            f"plain loop {ratio(seconds['plain'], s)}"
        )


def stepper(config, experts, real: RealImages, anew: bool = False):
    "A matching step on the first ten images; each repeat samples another part of the run."
    problem = trajectory._Problem(experts, real, config, torch.device("cpu"))
    importance = None
    if config.method == "iatm":
        importance = trajectory._Importance(problem, real.images[:128])
    learned = trajectory._learned(real.images[:10], config)

    def step():
        if anew:
            importance.layers.clear()
        trajectory._iterate(problem, importance, learned, torch.arange(10))
        learned.iteration = (learned.iteration + 7) % config.iterations

    return step


def iatm(args):
    "A matching step of IATM over one of MTT, on real experts."
    gen = torch.Generator().manual_seed(0)
    images = torch.randn(200, 3, 32, 32, generator=gen)
    whitening = ChannelWhitening((0.5,) * 3, (0.25,) * 3)
    real = RealImages(images, torch.arange(200) % 10, tuple("abcdefghij"), whitening)
    shared = {"iterations": 60, "student_steps": max(args.steps), "image_optimizer": "adam"}
    shared |= {
        "image_lr": 0.02,
        "memory": "full",
        "experts": trajectory.ExpertPlan(epochs=6, lr=0.02),
    }
    mtt = trajectory.MTTConfig(**shared)
    default = trajectory.IATMConfig(**shared)
    worst = trajectory.IATMConfig(**shared, opening="epochs", horizon="T")
    trained = ExpertConfig(width=args.width, epochs=6, lr=0.02)
    with tempfile.TemporaryDirectory() as folder:
        options = {"device": "cpu", "progress": False}
        made = train_experts(folder, images, real.labels, 10, 1, trained, **options)
        steps = {
            "mtt": stepper(mtt, made, real),
            "iatm": stepper(default, made, real),
            "iatm, analysed anew": stepper(worst, made, real, anew=True),
        }
        seconds, _ = timed(steps, 3 * args.repeats)
    for name, s in seconds.items():
        print(
            f"step, N = {max(args.steps)}, {name:20} {statistics.median(s):>6.2f} CPU s, of MTT "
            f"{ratio(s, seconds['mtt'])}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"inner": inner, "operations": operations, "experts": experts, "iatm": iatm}
    parser.add_argument(
        "--width", type=int, default=32, help="channels of the ConvNet-3 (128 in the dissertation)"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed rounds, after one that warms up"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 20], help="values of N")
    parser.add_argument(
        "--images", type=int, default=1024, help="real images an expert is timed on"
    )
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="also time the adjoint with compiled steps (needs a C++ compiler)",
    )
    parser.add_argument(
        "--only", choices=parts, nargs="+", default=list(parts), help="parts to run"
    )
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        print(json.dumps(extra_memory(args.memory_of, args.width, args.steps[0])))
        return
    print(
        f"ConvNet-3, width {args.width}, 10 synthetic images, one thread, torch {torch.__version__}"
    )
    for name in args.only:
        parts[name](args)


if __name__ == "__main__":
    main()
