"Rows, searches and condensations killed at random moments end with the same bits."

import shutil

import pytest
import torch
from faults.harness import count, everything_is_whole, many, survive
from faults.study import Toy
from toys import toy as toy_images

from effdl_nb.files import read_json


def test_a_row_that_is_killed_loses_no_finished_measurement(tmp_path):
    toy = Toy(tmp_path / "toy", seeds=12, wait=0.01)
    toy.enter()
    expected = {seed: [seed + 0.5, seed] for seed in range(12)}
    before, kills = set(), many(4, 100)

    def check():
        kept = set(toy.kept())
        assert before <= kept, "a finished measurement is lost"
        before.update(kept)
        everything_is_whole(toy.root / "reports")

    def again():
        values = toy.values().values()
        assert {int(second): [first, second] for first, second in values} == expected
        everything_is_whole(toy.root / "reports")
        before.clear()
        toy.forget()

    ended = survive(toy.run, check, again, kills)
    count("kills of rows", tried=kills, ended=ended, lost=0)


def _made(folder) -> dict[str, object]:
    "What a folder holds: sets and experts as bytes, policies without the seconds that they took."
    made = {}
    for path in folder.iterdir():
        if path.suffix == ".safetensors" and not path.name.startswith((".", "state")):
            made[path.name] = path.read_bytes()
        elif path.suffix == ".json" and path.name.startswith("policy"):
            made[path.name] = {**read_json(path), "provenance": None, "checksum": None}
    return made


def _kill_until_equal(work, folder, kills, what):
    "Kill `work`, which fills `folder`, and compare what it makes with what it made undisturbed."
    straight = {}

    def again():
        made = _made(folder)
        straight.update(made) if not straight else None
        assert made and made == straight
        everything_is_whole(folder)
        shutil.rmtree(folder)

    def check():
        if folder.exists():
            everything_is_whole(folder)

    ended = survive(work, check, again, kills)
    count(what, tried=kills, ended=ended, lost=0)


@pytest.mark.parametrize("method", ["dm", "mtt"])
def test_a_condensation_that_is_killed_ends_with_the_same_bytes(tmp_path, method):
    from effdl_nb.condensation.condensing import condense

    few = {"width": 4, "iterations": 6}
    matched = {**few, "outer_steps": 2, "inner_epochs": 1, "batch_real": 6}
    experts = {"count": 2, "epochs": 3, "batch_size": 15}
    trajectory = {"experts": experts, "student_steps": 2, "expert_steps": 1}
    trajectory |= {**few, "first_start": 1, "max_start": 1}
    options = {"dm": matched, "mtt": trajectory}[method]
    how = {"network": "convnet-2", "preset": "small", "progress": False, "checkpoint_every": 1}

    def work():
        torch.set_num_threads(1)
        condense(toy_images(), method, work=tmp_path / "work", **how, **options)

    _kill_until_equal(work, tmp_path / "work", many(1, 40), "kills of condensations")


def test_a_search_that_is_killed_ends_with_the_same_policy(tmp_path):
    from effdl_nb.data import load
    from effdl_nb.deepaa.finding import search_policy

    sample = load("cifar10-sample", train_size=60, test_size=20)
    how = {"preset": "quick", "proxy_epochs": 1, "device": "cpu", "progress": False}
    how |= {"layers": 1, "steps": 4, "pairs": 1, "chains": 4, "validation_images": 3}

    def work():
        import warnings

        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        search_policy(sample, "deepaa", work=tmp_path / "work", **how)

    _kill_until_equal(work, tmp_path / "work", many(1, 40), "kills of searches")
