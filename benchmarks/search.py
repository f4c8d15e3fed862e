"""One step of the search, broken down: augmentation, v, g and the forward-mode pass.

    OMP_NUM_THREADS=1 python benchmarks/search.py
        [--networks small-convnet wrn-16-2] [--pairs 8] [--repeats 5]

Small and large networks are measured in one process.

The parts are timed inside whole steps by wrapping the functions that do them; "rest" is what
remains. Networks and layers alternate from repeat to repeat, and medians are printed. The settings
are those of profile quick; a larger network gets one pair, which changes no share.
"""

import argparse
import contextlib
import statistics
import time
from unittest import mock

import torch

from effdl_nb.data import load
from effdl_nb.deepaa import reward, search, similarity
from effdl_nb.deepaa.policy import deep_ta_policy
from effdl_nb.deepaa.searching import SearchData, step_generator
from effdl_nb.deepaa.space import cifar_space
from effdl_nb.networks import build
from effdl_nb.prepared import Split


def make_step(network: str, layer: int, pairs: int, chunk: int):
    "One step of a layer as a function without arguments."
    torch.manual_seed(0)
    data = load("cifar10-sample")
    space = cifar_space()
    model = build(network).to(memory_format=torch.channels_last)
    model(torch.randn(64, 3, 32, 32))
    parts = [
        Split(data.train.images[rows], data.train.labels[rows])
        for rows in (slice(0, 4000), slice(4000, None))
    ]
    looked_at = SearchData(model.eval(), *parts, data.mean, data.std)
    config = search.SearchConfig(
        pairs=pairs, validation_images=32, prefixes=2, chains=64, chunk=chunk
    )
    pools = search.pools_of(looked_at, config)
    done = None if layer == 1 else deep_ta_policy(space, layer - 1)
    return lambda: search.step_rewards(
        looked_at, pools, config, done, deep_ta_policy(space), step_generator(0, layer, 0)
    )


PLACES = {
    "augmentation": [(search, "every_transform"), (similarity, "sampled_chains")],
    "v": [(similarity, "validation_gradient")],
    "g": [(reward, "batch_gradient")],
    "forward mode": [(reward, "directional_derivatives")],
}


@contextlib.contextmanager
def timed_parts(spent: dict[str, float]):
    "Add the seconds of each part to `spent` inside the block; what a part calls belongs to it."
    active = []

    def timed(part: str, function):
        def call(*arguments, **named):
            if active:
                return function(*arguments, **named)
            active.append(part)
            begin = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[active.pop()] += time.perf_counter() - begin

        return call

    with contextlib.ExitStack() as stack:
        for part, places in PLACES.items():
            for owner, name in places:
                stack.enter_context(
                    mock.patch.object(owner, name, timed(part, getattr(owner, name)))
                )
        yield


def broken_down(step) -> dict[str, float]:
    "Seconds of each part of one step, and of the whole."
    spent = dict.fromkeys(PLACES, 0.0)
    begin = time.perf_counter()
    with timed_parts(spent):
        step()
    whole = time.perf_counter() - begin
    return {**spent, "rest": whole - sum(spent.values()), "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["small-convnet", "wrn-16-2"])
    parser.add_argument(
        "--pairs", type=int, default=8, help="of the first network; the others get 1"
    )
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = {
        network: arguments.pairs if n == 0 else 1 for n, network in enumerate(arguments.networks)
    }
    steps = {
        (network, layer): make_step(network, layer, pairs[network], arguments.chunk)
        for network in arguments.networks
        for layer in (1, 2)
    }
    found = {key: [] for key in steps}
    for _ in range(arguments.repeats + 1):
        for key, step in steps.items():
            found[key].append(broken_down(step))
    print(f"{'':<28}{'s a step':>10}" + "".join(f"{part:>14}" for part in (*PLACES, "rest")))
    for (network, layer), records in found.items():
        part = {
            name: statistics.median(record[name] for record in records[1:]) for name in records[0]
        }
        print(
            f"{f'{network}, layer {layer}, {pairs[network]} pairs':<28}{part['whole']:>10.3f}",
            end="",
        )
        print("".join(f"{part[name] / part['whole']:>14.1%}" for name in (*PLACES, "rest")))


if __name__ == "__main__":
    main()
