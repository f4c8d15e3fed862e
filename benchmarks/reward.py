"""The reward of all 139 transforms of one image: forward mode against what it replaces, side by side in one process.

    OMP_NUM_THREADS=1 python benchmarks/reward.py [--network small-convnet] [--repeats 5]

The floor is three forward passes an image: a convolution of dual numbers is three convolutions. Repeats alternate and the best one counts.
"""

import argparse
import time

import torch

from effdl_nb.deepaa.reward import batch_gradient, direction, directional_derivatives, double_backward_reward, explicit_jacobian, frozen
from effdl_nb.networks import build

TRANSFORMS, EXPLICIT = 139, 10


def calls(network: str, chunk: int) -> dict:
    "Name of each way, the number of images it handles, and the call."
    torch.manual_seed(0)
    model = build(network).eval().to(memory_format=torch.channels_last)
    images = torch.randn(TRANSFORMS, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels, p = torch.full((TRANSFORMS,), 3), torch.full((TRANSFORMS,), 1 / TRANSFORMS)
    v = batch_gradient(model, images[:64], labels[:64])
    u = direction(v, batch_gradient(model, images, labels, p))

    def forward():
        with torch.no_grad(), frozen(model):
            for part in images.split(chunk):
                model(part)

    return {
        "forward": (TRANSFORMS, forward),
        "forward mode": (TRANSFORMS, lambda: directional_derivatives(model, images, labels, u, chunk)),
        "one backward for all": (TRANSFORMS, lambda: batch_gradient(model, images, labels, p)),
        "a backward for each transform": (EXPLICIT, lambda: explicit_jacobian(model, images[:EXPLICIT], labels[:EXPLICIT])),
        "double backward": (TRANSFORMS, lambda: double_backward_reward(model, images, labels, p, v)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="small-convnet")
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ways = calls(arguments.network, arguments.chunk)
    times = {name: [] for name in ways}
    for _ in range(arguments.repeats + 1):
        for name, (count, call) in ways.items():
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) / count)
    best = {name: min(values[1:]) for name, values in times.items()}
    for name, seconds in best.items():
        print(f"{name:<32}{1 / seconds:>10,.0f} images/s{seconds / best['forward']:>8.2f} forward passes")
    print(f"forward mode is {best['forward mode'] / (3 * best['forward']):.2f} times the floor of three forward passes,")
    for name in ("a backward for each transform", "double backward"):
        print(f"and {best[name] / best['forward mode']:.1f} times as fast as {name}")


if __name__ == "__main__":
    main()
