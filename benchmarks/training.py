"""Images per second: effdl_nb's `train` beside the usual DataLoader loop, taking turns.

    python benchmarks/training.py    # a small ConvNet: the input pipeline counts
    python benchmarks/training.py --network wrn-16-1 --images 256 --repeats 3  # the network counts

Both train the same network from the same weights on the same cores with crop and flip, SGD with
Nesterov momentum and batches of the same size. The peer is what most code does: a Dataset of PIL
images, torchvision's per-image RandomCrop, RandomHorizontalFlip, ToTensor and Normalize, and a
DataLoader (with --workers processes). It runs in fp32 and, to be fair to it, also with
channels_last and bf16. The first turn of each is a warm-up and is not counted. Ratios are taken
within a turn, so that a noisy machine disturbs both sides.
"""

import argparse
import platform
import statistics
import time
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from effdl_nb.data import load
from effdl_nb.networks import NETWORKS, build
from effdl_nb.training import TrainConfig, crop_flip, train


class Images(Dataset):
    "PIL images with torchvision's per-image transforms."

    def __init__(self, split, data):
        self.images = [
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in split.images
        ]
        self.labels = split.labels.tolist()
        side = data.image_size
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(side, 4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(self.images[i]), self.labels[i]


def peer(dataset, network, args, fast=False, train_network=True):
    "Seconds that one epoch of a plain DataLoader loop takes."
    model = network()
    memory = torch.channels_last if fast else torch.contiguous_format
    model.to(memory_format=memory)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    loader = DataLoader(dataset, args.batch_size, shuffle=True, num_workers=args.workers)
    start = time.perf_counter()
    for x, y in loader:
        if not train_network:
            continue
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            loss = F.cross_entropy(model(x.to(memory_format=memory)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def ours(split, data, network, args, **settings):
    "Seconds that one epoch of `train` takes."
    config = TrainConfig(epochs=1, batch_size=args.batch_size, lr=0.05, nesterov=True, **settings)
    model = network()
    start = time.perf_counter()
    train(
        model,
        split.images,
        split.labels,
        config,
        mean=data.mean,
        std=data.std,
        augment=crop_flip,
        device="cpu",
        progress=False,
    )
    return time.perf_counter() - start


class Nothing(torch.nn.Module):
    "A network that costs nothing, so that only the input pipeline is timed."

    def __init__(self, classes):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


# what is compared: (one, other); the ratio says how many times faster the first is
PAIRS = (
    ("input only, ours", "input only, DataLoader"),
    ("fp32, ours", "fp32, DataLoader"),
    ("bf16 channels_last, ours", "bf16 channels_last, DataLoader"),
    ("bf16 channels_last, ours", "fp32, DataLoader"),
    ("bf16, ours", "fp32, ours"),
    ("fp32 channels_last, ours", "fp32, ours"),
    ("bf16 channels_last, ours", "fp32, ours"),
)


def arguments():
    "Read the command line."
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--network", default="small-convnet", help=f"one of {', '.join(NETWORKS)}")
    add("--images", type=int, default=1024, help="images per epoch")
    add("--batch-size", type=int, default=128)
    add("--repeats", type=int, default=4, help="counted turns")
    add("--threads", type=int, default=1, help="threads of PyTorch")
    add("--workers", type=int, default=0, help="worker processes of the peer's DataLoader")
    return parser.parse_args()


def ways_to_train(args) -> dict:
    "Name every way, with a function that takes one turn and returns its seconds."
    data = load("cifar10-sample", train_size=args.images)
    dataset = Images(data.train, data)
    nothing = partial(Nothing, data.num_classes)

    def network():
        torch.manual_seed(0)
        return build(args.network)

    def train_ours(network=network, **settings):
        return ours(data.train, data, network, args, **settings)

    return {
        "input only, DataLoader": lambda: peer(dataset, nothing, args, train_network=False),
        "input only, ours": lambda: train_ours(nothing),
        "fp32, DataLoader": lambda: peer(dataset, network, args),
        "fp32, ours": train_ours,
        "bf16 channels_last, DataLoader": lambda: peer(dataset, network, args, fast=True),
        "bf16, ours": lambda: train_ours(precision="bf16"),
        "fp32 channels_last, ours": lambda: train_ours(channels_last=True),
        "bf16 channels_last, ours": lambda: train_ours(precision="bf16", channels_last=True),
    }


def show(args, seconds: dict[str, list[float]]):
    "Print speeds, and ratios turn by turn."
    print(
        f"{args.network}, {args.images} images, batches of {args.batch_size}, {args.threads} "
        f"thread(s), {args.workers} worker(s); "
        f"{platform.machine()}, PyTorch {torch.__version__}, {args.repeats} turns"
    )
    print(f"{'images/s':32}{'median':>10}{'min':>10}{'max':>10}")
    for way, values in seconds.items():
        speeds = [args.images / v for v in values]
        print(f"{way:32}{statistics.median(speeds):10,.0f}{min(speeds):10,.0f}{max(speeds):10,.0f}")
    print(f"\n{'how many times faster':64}{'median':>8}{'min':>8}{'max':>8}")
    for a, b in PAIRS:
        ratios = [y / x for x, y in zip(seconds[a], seconds[b], strict=True)]
        median = statistics.median(ratios)
        print(f"{a + ' / ' + b:64}{median:8.2f}{min(ratios):8.2f}{max(ratios):8.2f}")


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    ways = ways_to_train(args)
    seconds = {way: [] for way in ways}
    for turn in range(args.repeats + 1):
        for way, run in ways.items():
            value = run()
            if turn:  # the first turn is a warm-up
                seconds[way].append(value)
    show(args, seconds)


if __name__ == "__main__":
    main()
