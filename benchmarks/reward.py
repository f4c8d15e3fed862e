"""The reward of all 139 transforms of one image: forward mode against what it replaces.

    OMP_NUM_THREADS=1 python benchmarks/reward.py
        [--network small-convnet] [--repeats 15] [--chunk 64]

All run side by side in one process.

The floor is three forward passes an image: a convolution of dual numbers is three convolutions.
Repeats alternate, and "forward" is timed over three passes, about as long as what it is compared
with. The fastest repeat gives images/s; the ratio is the median of the ratios within a repeat.
"""

import argparse
import statistics
import time

import torch

from effdl_nb.deepaa.reward import (
    batch_gradient,
    direction,
    directional_derivatives,
    double_backward_reward,
    explicit_jacobian,
    forward_mode,
    frozen_copy,
)
from effdl_nb.networks import build

TRANSFORMS, EXPLICIT = 139, 10


def calls(network: str, chunk: int) -> dict:
    "Name of each way, the number of images it handles, and the call."
    torch.manual_seed(0)
    model = build(network).to(memory_format=torch.channels_last)
    model(torch.randn(64, 3, 32, 32))
    fast = frozen_copy(model.eval())
    images = torch.randn(TRANSFORMS, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels, p = torch.full((TRANSFORMS,), 3), torch.full((TRANSFORMS,), 1 / TRANSFORMS)
    v = batch_gradient(model, images[:64], labels[:64])
    u = direction(v, batch_gradient(model, images, labels, p))

    @torch.no_grad()
    def forward():
        for part in images.split(chunk) * 3:
            model(part)

    def with_batch_norm():
        return torch.cat(
            [
                forward_mode(model, x, y, u)
                for x, y in zip(images.split(chunk), labels.split(chunk), strict=True)
            ]
        )

    found, expected = directional_derivatives(fast, images, labels, u, chunk), with_batch_norm()
    print(
        "largest difference that the affine maps make: "
        f"{(found - expected).abs().max() / expected.abs().max():.1e} of the largest derivative"
    )
    return {
        "forward": (3 * TRANSFORMS, forward),
        "forward mode": (
            TRANSFORMS,
            lambda: directional_derivatives(fast, images, labels, u, chunk),
        ),
        "forward mode through batch norm": (TRANSFORMS, with_batch_norm),
        "one backward for all": (TRANSFORMS, lambda: batch_gradient(fast, images, labels, p)),
        "a backward for each transform": (
            EXPLICIT,
            lambda: explicit_jacobian(fast, images[:EXPLICIT], labels[:EXPLICIT]),
        ),
        "double backward": (TRANSFORMS, lambda: double_backward_reward(fast, images, labels, p, v)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="small-convnet")
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ways = calls(arguments.network, arguments.chunk)
    times = {name: [] for name in ways}
    for _ in range(arguments.repeats + 1):
        for name, (count, call) in ways.items():
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) / count)
    cost = {
        name: statistics.median(
            a / b for a, b in zip(values[1:], times["forward"][1:], strict=True)
        )
        for name, values in times.items()
    }
    for name, values in times.items():
        print(f"{name:<32}{1 / min(values[1:]):>10,.0f} images/s{cost[name]:>8.2f} forward passes")
    print(
        f"forward mode is {cost['forward mode'] / 3:.2f} times the floor of three forward passes,"
    )
    for name in (
        "forward mode through batch norm",
        "a backward for each transform",
        "double backward",
    ):
        print(f"and {cost[name] / cost['forward mode']:.1f} times as fast as {name}")


if __name__ == "__main__":
    main()
