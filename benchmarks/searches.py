"""CPU seconds and forward passes of every search, against its own floor.

    OMP_NUM_THREADS=1 python benchmarks/searches.py
        [--methods pba dada] [--preset quick] [--network small-convnet] [--repeats 2]

The floor of a search is its forward passes (a gradient counts as 3) divided by the rate at which
the network it trains or looks through computes forward passes here, measured before and after it
in the same process; what a search needs above it goes into augmentation, optimizer steps and
everything else that is no pass. The images are those of the embedded sample; all times are this
process's own (one thread), so other load hardly counts. The training of a proxy that a search looks
through is left out of both. Searches alternate from repeat to repeat.
"""

import argparse
import statistics
import time

import pandas as pd
import torch

from effdl_nb.data import load
from effdl_nb.deepaa.finding import divide, prepare_search, search_job
from effdl_nb.deepaa.search_methods import SEARCHES
from effdl_nb.machine import keep_memory, processor_kind
from effdl_nb.networks import build


def forward_rate(network: str, batch: int = 128, seconds: float = 1.0) -> float:
    "Images per second of a network in evaluation, without gradients: the best of its passes."
    model = build(network).eval().to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    times, end = [], time.process_time() + seconds
    with torch.inference_mode():
        while time.process_time() < end or len(times) < 3:
            begin = time.process_time()
            model(images)
            times.append(time.process_time() - begin)
    return batch / min(times)


def measure(method: str, preset: str, network: str, images) -> dict:
    "One search: its seconds, its passes, and what the passes alone would take."
    job = search_job(method, network, preset=preset, device="cpu")
    parts = divide(images.train, job.guide_share, list(images.classes), 0)
    search = prepare_search(job, images, parts, progress=False, tell=lambda words: None)
    before = forward_rate(network)
    begin = time.process_time()
    search.run(progress=False)
    seconds = time.process_time() - begin
    rate = max(before, forward_rate(network))
    floor = search.forwards / rate
    return {
        "method": method,
        "seconds": seconds,
        "passes": search.forwards,
        "floor s": floor,
        "ratio": seconds / floor if floor else float("nan"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    searched = [key for key in SEARCHES if key != "deep_ta"]
    parser.add_argument("--methods", nargs="+", choices=searched, default=searched)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--network", default="small-convnet")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    keep_memory()
    images = load("cifar10-sample")
    lines = [
        measure(method, given.preset, given.network, images)
        for _ in range(given.repeats)
        for method in given.methods
    ]
    print(f"{given.network}, preset {given.preset}, {processor_kind()}, median of {given.repeats}")
    frame = pd.DataFrame(lines).groupby("method", sort=False).agg(statistics.median)
    print(frame.round({"seconds": 1, "floor s": 1, "ratio": 2}).to_string())


if __name__ == "__main__":
    main()
