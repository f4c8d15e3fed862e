"Many processes at one row, one folder of experts, one cache: nothing is lost, nothing made twice."

import os

import numpy as np
import pytest
import torch
from faults.harness import child, count, many
from faults.study import Toy

from effdl_nb.files import lock, read_kept, write_kept


def together(*works):
    "Let children work at the same time; each must end well."
    numbers = [child(work) for work in works]
    assert [os.waitpid(pid, 0)[1] for pid in numbers] == [0] * len(works)


@pytest.mark.parametrize("by", ["seeds", "columns"])
def test_seeds_and_columns_measured_at_once_are_all_kept(tmp_path, by):
    processes, rounds = many(4, 16), many(2, 25)
    measured = 0
    for n in range(rounds):
        shape = (processes, 1) if by == "seeds" else (2, processes)
        toy = Toy(
            tmp_path / f"{by}-{n}",
            seeds=shape[0] * many(2, 12 if by == "seeds" else 6),
            columns=shape[1],
        )
        toy.enter()
        parts = [toy.columns[k::processes] for k in range(processes)]
        if by == "seeds":
            parts = [range(toy.seeds)[k::processes] for k in range(processes)]
        together(*(lambda p=p, toy=toy: toy.run(**{by: ",".join(map(str, p))}) for p in parts))
        kept = toy.kept()
        assert len(kept) == toy.seeds * shape[1], "a finished measurement is lost"
        measured += len(kept)
    count("measurements raced for, one row", tried=measured, lost=0)


def test_a_counter_under_the_lock_misses_nothing(tmp_path):
    path, processes, turns = tmp_path / "counter", many(4, 16), many(20, 400)
    write_kept(path, {"value": 0})

    def work():
        for _ in range(turns):
            with lock(path):
                write_kept(path, {"value": read_kept(path)["value"] + 1})

    together(*[work] * processes)
    assert read_kept(path)["value"] == processes * turns
    count("updates raced for, one record", tried=processes * turns, lost=0)


def test_experts_are_made_once_and_are_the_same(tmp_path):
    from effdl_nb.condensation.experts import ExpertConfig, train_experts

    small = ExpertConfig(network="convnet-2", width=4, epochs=2, lr=0.05, batch_size=10)
    images = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    processes, experts = many(3, 8), many(2, 24)

    def work(folder):
        torch.set_num_threads(1)
        train_experts(folder, images, torch.arange(30) % 3, 3, experts, small, progress=False)

    together(*[lambda: work(tmp_path / "raced")] * processes)
    work(tmp_path / "alone")
    for path in sorted((tmp_path / "alone").glob("expert_*")):
        assert path.read_bytes() == (tmp_path / "raced" / path.name).read_bytes()
    count("experts raced for, one folder", tried=processes * experts, lost=0)


def test_a_cache_is_prepared_once(tmp_path):
    from effdl_nb.prepared import read_prepared, write_prepared

    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(20) % 2
    arrays = {"train_images": noise, "train_labels": labels}
    arrays |= {"test_images": noise, "test_labels": labels}
    processes, rounds = many(4, 16), many(3, 20)
    for n in range(rounds):
        folder = tmp_path / f"cache-{n}"

        def work(folder=folder):
            with lock(folder):
                write_prepared(folder, arrays, ["a", "b"], "here")
            assert (read_prepared(folder)[0]["train_images"] == noise).all()

        together(*[work] * processes)
    assert not list(tmp_path.glob(".*.part"))
    count("openings raced for, one cache", tried=processes * rounds, lost=0)
