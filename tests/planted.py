"A planted task: two classes of noise that Invert exchanges, and a search's images of them."

from dataclasses import replace

import torch

from effdl_nb.deepaa.searching import SearchImages
from effdl_nb.deepaa.space import cifar_space
from effdl_nb.prepared import Split

SPACE = replace(cifar_space(), cutout=4)
NAMES = ("Invert", "ShearX", "Rotate", "TranslateX")


def brightness_task(n: int, seed: int, size: int = 16) -> Split:
    "Dark noise of class 0 and bright noise of class 1."
    gen = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    pixels = torch.randint(0, 120, (n, 3, size, size), generator=gen)
    return Split((pixels + 135 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


def planted(n: int = 192, seed: int = 0, network="small-convnet", size: int = 16) -> SearchImages:
    "Images to train on and as many to judge by."
    parts = (brightness_task(n, 2 * seed, size), brightness_task(n, 2 * seed + 1, size))
    return SearchImages(*parts, (0.5,) * 3, (0.25,) * 3, 2, network)
