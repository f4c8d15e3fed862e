"""What memory that is kept instead of returned buys: training steps with and without it.

    OMP_NUM_THREADS=1 python benchmarks/allocator.py [--repeats 3] [--steps 12]

glibc gives large blocks back to the system when they are freed and asks for them anew in the next
step; `effdl_nb.machine.keep_memory` tells it not to. The setting holds for a whole process, so each
measurement is a process of its own; with and without alternate. Printed: images per second of CPU
time (medians), page faults per step, and the largest resident size.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from effdl_nb.machine import keep_memory, processor_kind
from effdl_nb.networks import build

# network, options of `build`, images in a step, precision
CASES = {
    "ConvNet-3, width 128": ("convnet-3", {"width": 128, "norm": "instance"}, 128, "fp32"),
    "ConvNet-3, width 32": ("convnet-3", {"width": 32, "norm": "instance"}, 128, "fp32"),
    "WRN-16-2": ("wrn-16-2", {}, 64, "fp32"),
    "ConvNet-3, width 128, bf16": ("convnet-3", {"width": 128, "norm": "instance"}, 128, "bf16"),
    "WRN-16-2, bf16": ("wrn-16-2", {}, 64, "bf16"),
}


def train_steps(case: str, keep: bool, steps: int) -> dict:
    "Train for some steps in this process; the first three are not counted."
    if keep:
        keep_memory()
    network, options, batch, precision = CASES[case]
    torch.manual_seed(0)
    model = build(network, **options).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    for step in range(steps + 3):
        if step == 3:
            begin, faults = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "images/s": batch * steps / (time.process_time() - begin),
        "faults per step": (used.ru_minflt - faults) / steps,
        "peak MB": used.ru_maxrss / 1024,
    }


def measured(case: str, keep: bool, steps: int) -> dict:
    "The same in a process of its own."
    command = [sys.executable, __file__, "--one", case, str(int(keep)), "--steps", str(steps)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "KEEP"), help="used by itself")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(train_steps(given.one[0], given.one[1] == "1", given.steps)))
        return
    print(f"{processor_kind()}, {torch.get_num_threads()} thread(s), medians of {given.repeats}")
    for case in CASES:
        runs = {keep: [] for keep in (False, True)}
        for _ in range(given.repeats):
            for keep, results in runs.items():
                results.append(measured(case, keep, given.steps))
        off, on = (
            {name: statistics.median(r[name] for r in results) for name in results[0]}
            for results in runs.values()
        )
        ratio = on["images/s"] / off["images/s"]
        parts = ", ".join(f"{name} {off[name]:,.0f} -> {on[name]:,.0f}" for name in off)
        print(f"{case}: {ratio:.2f} times; {parts}")


if __name__ == "__main__":
    main()
