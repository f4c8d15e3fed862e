"""One layer of augmentation: images per second on one core, side by side, at 32x32 and 224x224.

    OMP_NUM_THREADS=1 python benchmarks/augmentation.py
        [--images 2000] [--large 256] [--repeats 5] [--kinds]

Every path but kornia's gives every image its own random operation. The peers are torchvision v2's
TrivialAugmentWide on PIL images and on tensors (one image at a time, as in its own data loaders),
loops over Pillow with one operation an image, and kornia's TrivialAugment, which draws one
operation for the whole batch and so is another method; it is shown for its speed alone, where it is
installed.

A path is compared with the Pillow loop that takes and returns what it does. A policy's step in a
pipeline before ToTensor gets PIL images and returns them (`as_transform`, which makes no tensor of
the pixels): its peer is the loop among PIL images. A policy called on a batch of tensors has the
loop from and to tensors as its peer. The ratio of the batch to the loop among PIL images is printed
too; it compares different work, and says that images which a loader decodes to PIL are better
augmented there.

All paths with the 139 transforms make the same draws, since one operation costs forty times
another. Paths that take one image at a time let go of each result, as a loader does after ToTensor;
keeping them costs each such path about a tenth, for fresh memory, and makes the ratios noisier.
Times are the process's own processor time, repeats of all paths alternate, and the best one counts,
so that a busy machine disturbs them alike. `--kinds` prints each operation at several sizes,
computed by tensors and by Pillow, which is how the sizes in
`effdl_nb.deepaa.operations.PILLOW_FROM` were found.
"""

import argparse
import importlib.util
import time
import warnings

import torch
from PIL import Image
from torchvision.transforms import v2

from effdl_nb.data import load
from effdl_nb.deepaa.operations import apply_transforms
from effdl_nb.deepaa.policy import deep_ta_policy
from effdl_nb.deepaa.published import trivial_augment_wide_policy
from effdl_nb.deepaa.reference import draw_noise, pillow_loop, pillow_transform
from effdl_nb.deepaa.space import SearchSpace, cifar_space, imagenet_space


def pillow_loops(images: torch.Tensor, pictures: list, policy, generator: torch.Generator) -> dict:
    "The same policy by a bare loop over Pillow, among PIL images, and from and to tensors."

    def one(picture, n, noise):
        return pillow_transform(picture, policy.space[n], policy.space, noise)

    def bare():
        draw = policy.sample(len(pictures), generator.manual_seed(0))
        for drawn in zip(
            pictures, draw.indices[:, 0].tolist(), draw.noise[:, 0].tolist(), strict=True
        ):
            one(*drawn)

    def between_tensors():
        draw = policy.sample(len(images), generator.manual_seed(0))
        transforms = [policy.space[n] for n in draw.indices[:, 0]]
        return pillow_loop(images, transforms, policy.space, draw.noise[:, 0]).contiguous()

    return {"Pillow loop, PIL to PIL": bare, "Pillow loop, tensor to tensor": between_tensors}


def paths(images: torch.Tensor, space: SearchSpace) -> dict:
    "Name of each path and a function that augments all images once."
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    generator = torch.Generator().manual_seed(0)
    policy, wide, peer = (
        deep_ta_policy(space),
        trivial_augment_wide_policy(defaults=False),
        v2.TrivialAugmentWide(),
    )
    step = policy.as_transform()

    def seeded(transform, items):
        torch.manual_seed(0)
        for item in items:
            transform(item)

    found = {
        "effdl_nb, 139 transforms": lambda: policy(images, generator.manual_seed(0)),
        "effdl_nb, TrivialAugment (Wide)": lambda: wide(images, generator.manual_seed(0)),
        "effdl_nb, as_transform on PIL": lambda: seeded(step, pictures),
        "torchvision v2, PIL": lambda: seeded(peer, pictures),
        "torchvision v2, tensor": lambda: seeded(peer, images),
        **pillow_loops(images, pictures, policy, generator),
    }
    if importlib.util.find_spec("kornia"):
        from kornia.augmentation.auto import TrivialAugment

        one_for_all, floats = TrivialAugment(), images.float() / 255
        found["kornia, one operation a batch"] = lambda: [
            one_for_all(part) for part in floats.split(128)
        ]
    return found


def best_times(calls: dict, repeats: int) -> dict[str, float]:
    "Processor seconds of each call's fastest repeat; the repeats of all calls alternate."
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            times[name].append(time.process_time() - begin)
    return {name: min(values[1:]) for name, values in times.items()}


def side_by_side(images: torch.Tensor, space: SearchSpace, repeats: int) -> None:
    "All paths on these images, and the ratios that matter."
    rates = {
        name: len(images) / seconds
        for name, seconds in best_times(paths(images, space), repeats).items()
    }
    print(f"\n{len(images)} images of {images.shape[-2]}x{images.shape[-1]}, space {space.name!r}")
    for name, rate in rates.items():
        print(f"  {name:<34}{rate:>10,.0f} images/s")
    peer = max(rate for name, rate in rates.items() if name.startswith("torchvision"))
    print(
        f"  TrivialAugment (Wide): {rates['effdl_nb, TrivialAugment (Wide)'] / peer:.1f} times "
        "the faster torchvision path"
    )
    batch, step = rates["effdl_nb, 139 transforms"], rates["effdl_nb, as_transform on PIL"]
    among, between = (rates[f"Pillow loop, {name}"] for name in ("PIL to PIL", "tensor to tensor"))
    print(
        f"  139 transforms, PIL to PIL: {step / among:.2f} times the Pillow loop that does the same"
    )
    print(
        f"  139 transforms, tensor to tensor: {batch / between:.2f} times the Pillow loop that "
        f"does the same ({batch / among:.2f} times the other)"
    )


def enlarged(images: torch.Tensor, side: int) -> torch.Tensor:
    "Smooth colour images of another size, made of real ones."
    return torch.nn.functional.interpolate(images.float(), size=(side, side), mode="bilinear").to(
        torch.uint8
    )


def operations_by_size(images: torch.Tensor, space: SearchSpace, repeats: int) -> None:
    "Microseconds an image of each operation at several sizes, by tensors and by Pillow."
    sizes, generator = (
        {32: 1000, 64: 256, 128: 64, 224: 32, 448: 8},
        torch.Generator().manual_seed(0),
    )
    print(
        "\nmicroseconds an image, tensors / Pillow\n"
        + " " * 14
        + "".join(f"{size:>18}" for size in sizes)
    )
    for name in space.operations():
        line = f"{name:<14}"
        for size, count in sizes.items():
            batch, noise, places = (
                enlarged(images[:count], size),
                draw_noise(count, generator),
                torch.tensor(space.indices(name)),
            )
            indices = places[torch.randint(len(places), (count,), generator=generator)]
            calls = {
                p: lambda p=p, a=(batch, indices, space, None, noise): apply_transforms(*a, path=p)
                for p in ("tensor", "pillow")
            }
            found = best_times(calls, repeats)
            line += f"{1e6 * found['tensor'] / count:>9.1f} /{1e6 * found['pillow'] / count:>7.1f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--large", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = load("cifar10-sample").train.images[: arguments.images].clone()
    side_by_side(images, cifar_space(), arguments.repeats)
    side_by_side(enlarged(images[: arguments.large], 224), cifar_space(), arguments.repeats)
    side_by_side(enlarged(images[: arguments.large], 224), imagenet_space(), arguments.repeats)
    if arguments.kinds:
        operations_by_size(images, cifar_space(), arguments.repeats)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
