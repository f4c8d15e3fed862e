"""MSUNet's training steps: float32 and bfloat16, with memory kept or returned.

    OMP_NUM_THREADS=1 python benchmarks/msunet_training.py [--rounds 3] [--steps 5] [--width 1]

A form is a precision (float32; bfloat16 as torch's autocast has it; bfloat16 with the depthwise
gradients of `effdl_nb.msunet.half`) and what the allocator does with large blocks
(`effdl_nb.machine.keep_memory` holds for a whole process, so each form is a process of its own, and
forms alternate). Printed: milliseconds of processor time a step (least and median of all rounds)
and how many times as fast as float32 with memory returned, which is what torch does by itself.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from effdl_nb.machine import keep_memory, processor_kind
from effdl_nb.msunet.half import HalfLoss
from effdl_nb.msunet.network import msunet

FORMS = {  # precision, whether depthwise gradients are ours, whether memory is kept
    "fp32, returned": (False, False, False),
    "fp32, kept": (False, False, True),
    "bf16 by autocast, kept": (True, False, True),
    "bf16 with our gradients, kept": (True, True, True),
}


def cross_entropy(model, x, y):
    "The loss of a batch, as `train` computes it."
    return F.cross_entropy(model(x), y)


def steps(form: str, count: int, width: float) -> list[float]:
    "Processor milliseconds of each step; two before are not counted."
    half, ours, keep = FORMS[form]
    if keep:
        keep_memory()
    torch.manual_seed(0)
    model = msunet("v3", width).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(16, 3, 32, 32).to(memory_format=torch.channels_last)
    labels, loss = torch.randint(100, (16,)), HalfLoss() if ours else cross_entropy
    times = []
    for _ in range(count + 2):
        begin = time.process_time()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = loss(model, images, labels)
        value.backward()
        optimizer.step()
        times.append(1e3 * (time.process_time() - begin))
    return times[2:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--one", metavar="FORM", help="used by itself")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(steps(given.one, given.steps, given.width)))
        return
    print(f"{processor_kind()}, {torch.get_num_threads()} thread(s), MSUNet-V3 x {given.width:g}")
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(given.rounds):
        for form, found in times.items():
            command = [sys.executable, __file__, "--one", form]
            command += ["--steps", str(given.steps), "--width", str(given.width)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found += json.loads(done.stdout)
    base = times["fp32, returned"]
    for form, found in times.items():
        least, median = min(found), statistics.median(found)
        ratios = f"{min(base) / least:.2f} (medians {statistics.median(base) / median:.2f})"
        print(f"{form:32} {least:5.0f} ms, median {median:5.0f} ms; {ratios} times as fast")


if __name__ == "__main__":
    main()
