"A search of a second for tests: four transforms, three classes and a network of a few weights."

import torch
from torch import nn

from effdl_nb.deepaa.search import SearchConfig
from effdl_nb.deepaa.searching import SearchData, SearchImages
from effdl_nb.deepaa.space import SearchSpace, Transform
from effdl_nb.networks import build
from effdl_nb.prepared import Split

SPACE = SearchSpace(
    "four",
    (Transform("Identity"), Transform("Invert"), Transform("Rotate", 15.0), Transform("Flip")),
)
CONFIG = SearchConfig(
    layers=2,
    steps=4,
    pairs=2,
    validation_images=5,
    prefixes=2,
    chains=6,
    lr=0.5,
    identity_logit=1.0,
    stop_identity=1.0,
)

# settings of the rivals' searches: a second each on some hundred images
RIVALS = {
    "pba": {
        "members": 2,
        "epochs": 3,
        "interval": 1,
        "train_images": 40,
        "validation_images": 20,
        "batch_size": 20,
    },
    "fast_aa": {
        "images": 120,
        "judge_images": 20,
        "epochs": 1,
        "batch_size": 32,
        "trials": 4,
        "keep": 2,
        "startup": 2,
        "warmup_epochs": 0.5,
    },
    "faster_aa": {"steps": 3, "batch_size": 16},
    "dada": {"steps": 3, "batch_size": 16, "train_images": 40, "guide_images": 40},
    "adv_aa": {"epochs": 3, "images": 40, "batch_size": 20, "copies": 2, "update_every": 1},
}


def data(seed=0, classes=3, per_class=12) -> SearchData:
    "Random images of three classes and a fresh network."
    torch.manual_seed(seed)
    labels = torch.arange(classes).repeat(per_class)
    parts = [
        Split(torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8), labels)
        for _ in range(2)
    ]
    model = build("small-convnet", classes, width=2)
    return SearchData(model, *parts, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def looked_at(network=None) -> SearchImages:
    "The same images for a search that trains its own networks: a few weights, or another one."
    images = data()
    small = network or (lambda classes, size: build("small-convnet", classes, width=2))
    constants = (images.mean, images.std)
    return SearchImages(images.train, images.validation, *constants, num_classes=3, network=small)


def same_state(first: nn.Module, second: nn.Module) -> bool:
    "Whether all weights and statistics are the same bits."
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Dead(nn.Module):
    "A network whose logits do not depend on its input nor, once it is certain, on its weights."

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        return self.head(x.mean((2, 3)) * 0.0) * 0.0
