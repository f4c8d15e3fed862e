"""One layer of augmentation at 32x32, images a second on one core, side by side in one process.

    OMP_NUM_THREADS=1 python benchmarks/augmentation.py [--images 2000] [--repeats 5]

Every path gives every image its own random operation. The peers are torchvision v2's TrivialAugmentWide on PIL images and on tensors (one image at a
time, as in its own data loaders), and a bare loop over Pillow with one operation an image. Repeats of all paths alternate, and the best one counts,
so that a busy machine disturbs them alike.
"""

import argparse
import time
import warnings

import torch
from PIL import Image
from torchvision.transforms import v2

from effdl_nb.data import load
from effdl_nb.deepaa.operations import SearchSpace, pillow_transform
from effdl_nb.deepaa.policy import deep_ta_policy, trivial_augment_wide_policy


def paths(images: torch.Tensor) -> dict:
    "Name of each path and a function that augments all images once."
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    space, generator = SearchSpace.cifar(), torch.Generator().manual_seed(0)
    policy, wide, peer = deep_ta_policy(space), trivial_augment_wide_policy(defaults=False), v2.TrivialAugmentWide()

    def bare_loop():
        draw = policy.sample(len(pictures), generator)
        for picture, n, noise in zip(pictures, draw.indices[:, 0].tolist(), draw.noise[:, 0].tolist(), strict=True):
            pillow_transform(picture, space[n], space, noise)

    return {
        "effdl_nb, 139 transforms": lambda: policy(images, generator),
        "effdl_nb, TrivialAugment (Wide)": lambda: wide(images, generator),
        "torchvision v2, PIL": lambda: [peer(picture) for picture in pictures],
        "torchvision v2, tensor": lambda: [peer(image) for image in images],
        "bare Pillow loop": bare_loop,
    }


def best_times(calls: dict, repeats: int) -> dict[str, float]:
    "Seconds of each call's fastest repeat; the repeats of all calls alternate."
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: min(values[1:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = load("cifar10-sample").train.images[: arguments.images].clone()
    rates = {name: len(images) / seconds for name, seconds in best_times(paths(images), arguments.repeats).items()}
    for name, rate in rates.items():
        print(f"{name:<34}{rate:>10,.0f} images/s")
    ours, peer = rates["effdl_nb, TrivialAugment (Wide)"], max(rate for name, rate in rates.items() if name.startswith("torchvision"))
    print(f"TrivialAugment (Wide): {ours / peer:.1f} times the faster torchvision path")
    print(f"139 transforms: {rates['effdl_nb, 139 transforms'] / rates['bare Pillow loop']:.1f} times the bare Pillow loop")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
