"""Table 3.2's experiment at a size of seconds: rows, files, faults."""

from dataclasses import asdict, replace

import pytest
import torch

from effdl_nb.data import load
from effdl_nb.deepaa.experiments import ROWS, CifarSettings, cifar_accuracy, find_policy, policy_path, split_for_search
from effdl_nb.deepaa.policy import load_policy
from effdl_nb.deepaa.search import PolicySearch

TINY = CifarSettings(
    dataset="cifar10-sample",
    train_size=240,
    test_size=50,
    network="small-convnet",
    epochs=1,
    batch_size=50,
    warmup_epochs=0.0,
    search_network="small-convnet",
    search_images=140,
    search_proxy_epochs=1,
    search_layers=2,
    search_steps=2,
    search_pairs=1,
    search_validation_images=3,
    search_prefixes=1,
    search_chains=4,
    search_lr=2.0,
    search_identity_logit=1.0,
    search_chunk=128,
    held_out_pairs=2,
    held_out_chains=3,
)


def test_every_row_gives_an_accuracy_and_repeats(tmp_path):
    for row in ROWS:
        first = cifar_accuracy(row, TINY, 1, tmp_path)
        assert 0 <= first["accuracy"] <= 100 and first["details"]["steps"] == 4
        assert cifar_accuracy(row, TINY, 1, tmp_path) == first, row


def test_the_policy_is_searched_once_for_all_seeds_and_trainings(tmp_path, monkeypatch):
    data = load(TINY.dataset, train_size=240, test_size=50)
    policy = find_policy(TINY, data, tmp_path, progress=False)
    monkeypatch.setattr(PolicySearch, "run", lambda *_: pytest.fail("searched again"))
    longer = replace(TINY, epochs=2, network="convnet-2", lr=0.05)
    assert torch.equal(find_policy(longer, data, tmp_path).probabilities, policy.probabilities), "the training's settings do not shape the policy"
    assert policy_path(replace(TINY, search_seed=1), data, tmp_path) != policy_path(TINY, data, tmp_path)
    assert policy.provenance["data"] == data.digest and len(policy.provenance["held_out"]) == policy.layers + 1
    details = cifar_accuracy("deepaa", TINY, 0, tmp_path)["details"]
    assert len(details["top_operations"]) == len(details["entropy"]) == policy.layers


def test_an_interrupted_search_continues(tmp_path, monkeypatch):
    data, advance, calls = load(TINY.dataset, train_size=240, test_size=50), PolicySearch.advance, []
    expected = find_policy(TINY, data, tmp_path / "whole", progress=False)

    def failing(self):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(PolicySearch, "advance", failing)
    with pytest.raises(KeyboardInterrupt):
        find_policy(TINY, data, tmp_path / "broken", progress=False)
    calls.clear()
    found = find_policy(TINY, data, tmp_path / "broken", progress=False)
    assert len(calls) == 2, "the finished first layer is not searched again"
    assert torch.equal(found.probabilities, expected.probabilities)


def test_a_damaged_policy_file_is_an_error_and_not_a_new_search(tmp_path):
    data = load(TINY.dataset, train_size=240, test_size=50)
    find_policy(TINY, data, tmp_path, progress=False)
    path = policy_path(TINY, data, tmp_path)
    path.write_text(path.read_text().replace("DeepAA", "DeepBB"))
    with pytest.raises(ValueError, match="changed after it was written"):
        cifar_accuracy("deepaa", TINY, 0, tmp_path)


def test_mirrored_evaluation_uses_the_same_file(tmp_path):
    cifar_accuracy("deepaa", TINY, 0, tmp_path)
    cifar_accuracy("deepaa", replace(TINY, mirror=True), 0, tmp_path)
    files = [path for path in tmp_path.iterdir() if path.suffix == ".json"]
    assert len(files) == 1 and load_policy(files[0]).layers >= 1


def test_an_unknown_row_and_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match="none, baseline, aa, ra, ua, ta_ra, ta_wide, deepaa"):
        cifar_accuracy("autoaugment", TINY, 0, tmp_path)
    for change in ({"precision": "fp8"}, {"search_steps": 0}, {"held_out_pairs": 1}, {"search_images": 0}, {"lr": -1.0}):
        with pytest.raises(ValueError):
            replace(TINY, **change)


def test_both_parts_of_the_split_need_every_class():
    train = load(TINY.dataset, train_size=200, test_size=50).train
    fit, held = split_for_search(train, 140, 0)
    assert len(fit) == 140 and len(held) == 60 and torch.bincount(fit.labels).tolist() == [14] * 10
    for images in (5, 200):
        with pytest.raises(ValueError, match="both parts need some of every class"):
            split_for_search(train, images, 0)


def test_settings_are_plain_values():
    assert all(value is None or isinstance(value, str | int | float | bool) for value in asdict(CifarSettings()).values())
