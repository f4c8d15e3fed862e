"Data sets and settings small enough for every test."

import torch

from effdl_nb.data import ImageDataset, Split
from effdl_nb.msunet.recipe import FirstStage, MSUNetSettings, SecondStage

TINY_MSUNET = MSUNetSettings(
    dataset="cifar10-sample",
    train_size=40,
    test_size=10,
    image_size=16,
    width=0.125,
    variant="v0",
    batch_size=10,
    pruning="full",
    stage1=FirstStage(epochs=2, schedule="cosine", alpha_ramp=(0.0, 0.5)),
    stage2=SecondStage(epochs=2, lr=0.01, prune_until=0.5),
)


def toy(classes: int = 3, n: int = 30, size: int = 8, channels: int = 3) -> ImageDataset:
    "Random pixels, 50 levels brighter from class to class; the test images are the training ones."
    gen = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    pixels = torch.randint(0, 100, (n, channels, size, size), generator=gen)
    images = (pixels + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    split, statistics = Split(images, labels), ((0.4,) * channels, (0.2,) * channels)
    digest = f"digest {classes} {channels}"
    return ImageDataset("toy", split, split, tuple("abc"[:classes]), *statistics, digest, "here")
