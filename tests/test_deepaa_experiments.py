"""The experiments of Tables 3.1 to 3.8 and 3.A at a size of seconds: rows, files, faults."""

from dataclasses import asdict, replace

import pytest
import torch

from effdl_nb import spec
from effdl_nb.data import load
from effdl_nb.deepaa import experiments
from effdl_nb.deepaa.experiments import (
    METHODS,
    AugmentationSettings,
    SpaceSettings,
    augmented_accuracy,
    described_space,
    find_policy,
    hyperparameters,
    operation_row,
    policy_path,
    proxy_of,
    search_hours,
    search_quality,
    split_for_search,
)
from effdl_nb.deepaa.operations import OPERATIONS
from effdl_nb.deepaa.policy import load_policy
from effdl_nb.deepaa.search import PolicySearch

TINY = AugmentationSettings(
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
    for row in (*METHODS, "layers_1", "deep_ta_2"):
        first = augmented_accuracy(row, TINY, 1, tmp_path)
        assert 0 <= first["accuracy"] <= 100 and first["details"]["steps"] == 4
        assert augmented_accuracy(row, TINY, 1, tmp_path) == first, row


@pytest.mark.parametrize(
    "row", ["baseline", "aa", "ra", "ua", "ta_ra", "ta_wide", "deepaa", "deepaa_simple"]
)
def test_imagenets_rows_run_on_small_images(row, tmp_path_factory):
    work = tmp_path_factory.getbasetemp() / "imagenet"
    result = augmented_accuracy(row, replace(TINY, space="imagenet", batch_repeats=2), 1, work)
    assert 0 <= result["accuracy"] <= 100
    if row == "deepaa":
        assert result["details"]["policy"]["space"] == "imagenet"


def test_depth_is_that_of_the_settings_or_what_was_found(tmp_path):
    found = augmented_accuracy("deepaa", TINY, 0, tmp_path)["details"]
    for layers in (1, 2, 7):
        details = augmented_accuracy(f"layers_{layers}", replace(TINY, layers=layers), 0, tmp_path)[
            "details"
        ]
        used = min(layers, found["layers_used"])
        assert details["layers_used"] == used and details["policy"] == found["policy"], (
            "a row carries the policy as it was found"
        )
        assert (
            augmented_accuracy(f"deep_ta_{layers}", replace(TINY, layers=layers), 0, tmp_path)[
                "details"
            ]["layers_used"]
            == layers
        )
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".json"]) == 1, (
        "depth does not shape the search"
    )
    assert all(
        abs(sum(row) - 1) < 1e-4 and len(row) == 139 for row in found["policy"]["probabilities"]
    )


def test_spaces_and_methods_have_policies_of_their_own(tmp_path):
    data = load(TINY.dataset, train_size=240, test_size=50)
    changes = (
        {},
        {"space": "imagenet"},
        {"search_method": "deep_ta"},
        {"search_penalty": 0.5},
        {"held_out_deep_ta": False},
    )
    assert len({policy_path(replace(TINY, **change), data, tmp_path) for change in changes}) == len(
        changes
    )
    policy = find_policy(
        replace(TINY, search_method="deep_ta", held_out_deep_ta=False), data, tmp_path
    )
    assert (
        policy.layers == TINY.search_layers
        and len(policy.provenance["held_out"]) == 3
        and "held_out_deep_ta" not in policy.provenance
    )


def test_a_proxy_is_trained_once_and_read_exactly(tmp_path, monkeypatch):
    data = load(TINY.dataset, train_size=240, test_size=50)
    part, *_ = split_for_search(data.train, TINY.search_images, None, 0)
    state = torch.get_rng_state()
    first, seconds = proxy_of(TINY, data, part, tmp_path, torch.device("cpu"), progress=False)
    monkeypatch.setattr(
        experiments, "pretrain_proxy", lambda *_, **__: pytest.fail("trained again")
    )
    again, same = proxy_of(
        replace(TINY, search_penalty=0.0, epochs=3), data, part, tmp_path, torch.device("cpu")
    )
    assert torch.equal(state, torch.get_rng_state()) and seconds == same > 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_a_search_is_refused_to_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="Table 3.5 first, without torchrun"):
        find_policy(TINY, load(TINY.dataset, train_size=240, test_size=50), tmp_path)


def test_too_few_held_out_images_are_told_before_the_proxy_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "proxy_of", lambda *a: pytest.fail("trained"))
    # 5 images of a class behind v, and 5 held out: one of them would be x
    data = load(TINY.dataset, train_size=240, test_size=50)
    with pytest.raises(ValueError, match="each v needs 6 validation images"):
        find_policy(replace(TINY, search_validation_images=5), data, tmp_path)


def test_table_3_1_is_described_by_the_space():
    rows = [operation_row(name) for name in OPERATIONS]
    shown = {row: described_space(row, SpaceSettings(), 0, None)["magnitude"] for row in rows}
    assert (
        len(rows) == 18
        and shown["translate_x"] == "[-0.45, 0.45]"
        and shown["contrast"] == "[0.1, 1.9]"
        and shown["solarize"] == "[0, 256]"
    )
    assert shown["cutout"] == "16 (60)" and [row for row in rows if shown[row] == "none"] == [
        "identity",
        "auto_contrast",
        "invert",
        "equalize",
        "flip",
        "crop",
    ]
    assert described_space("cutout", SpaceSettings("imagenet", "imagenet"), 0, None) == {
        "magnitude": "60"
    }
    with pytest.raises(ValueError, match="identity, shear_x"):
        described_space("deepaa", SpaceSettings(), 0, None)


def test_tables_3_5_and_3_8(tmp_path):
    cost = search_hours("deepaa", TINY, 0, tmp_path)
    parts = cost["details"]
    assert cost["search_hours"] == pytest.approx(
        (parts["proxy_seconds"] + parts["seconds"]) / 3600
    ) and parts["device"].startswith("CPU, ")
    assert search_hours("deepaa", TINY, 0, tmp_path) == cost, (
        "what was spent once is not measured again"
    )
    with pytest.raises(ValueError, match="not searched by this study; allowed: deepaa"):
        search_hours("aa", TINY, 0, tmp_path)
    shown = hyperparameters(
        "cifar10_ta_wide",
        replace(TINY, network="wrn-28-10", batch_size=128, batch_repeats=8, lr=0.2),
        0,
        tmp_path,
    )
    assert shown == {
        "model": "WRN-28-10",
        "batch_size": "128 x 8",
        "lr": 0.2,
        "weight_decay": 5e-4,
        "epochs": 1,
    }


def test_quality_of_a_seed_shares_its_proxy(tmp_path):
    rows = {
        row: search_quality(row, replace(TINY, held_out_deep_ta=False, **change), 3, tmp_path)
        for row, change in {
            "default": {},
            "mixed": {"search_same_class": False},
            "random": {"search_method": "random", "search_candidates": 2},
            "deep_ta": {"search_method": "deep_ta"},
        }.items()
    }
    assert (
        len(list(tmp_path.glob("deepaa_proxy_*"))) == 1
        and len(list(tmp_path.glob("deepaa_policy_*.json"))) == 4
    )
    assert (
        rows["random"]["details"]["policy"]
        != rows["default"]["details"]["policy"]
        != rows["mixed"]["details"]["policy"]
    )
    for result in rows.values():
        last = result["details"]["held_out"][-1]
        assert (result["improvement"], result["deviation"], result["layers"]) == (
            last["improvement"],
            last["improvement_deviation"],
            last["depth"],
        )
    assert rows["deep_ta"]["layers"] == 2 and rows["deep_ta"]["seconds"] == 0
    search_quality("default", TINY, 4, tmp_path)
    assert len(list(tmp_path.glob("deepaa_proxy_*"))) == 2, "another seed is another proxy"


def test_the_policy_is_searched_once_for_all_seeds_and_trainings(tmp_path, monkeypatch):
    data = load(TINY.dataset, train_size=240, test_size=50)
    policy = find_policy(TINY, data, tmp_path, progress=False)
    monkeypatch.setattr(PolicySearch, "run", lambda *_: pytest.fail("searched again"))
    longer = replace(TINY, epochs=2, network="convnet-2", lr=0.05)
    assert torch.equal(find_policy(longer, data, tmp_path).probabilities, policy.probabilities), (
        "the training's settings do not shape the policy"
    )
    assert policy_path(replace(TINY, search_seed=1), data, tmp_path) != policy_path(
        TINY, data, tmp_path
    )
    assert (
        policy.provenance["data"] == data.digest
        and len(policy.provenance["held_out"]) == policy.layers + 1
    )
    details = augmented_accuracy("deepaa", TINY, 0, tmp_path)["details"]
    assert len(details["top_operations"]) == len(details["entropy"]) == policy.layers


def test_an_interrupted_search_continues(tmp_path, monkeypatch):
    data, advance, calls = (
        load(TINY.dataset, train_size=240, test_size=50),
        PolicySearch.advance,
        [],
    )
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
        augmented_accuracy("deepaa", TINY, 0, tmp_path)


def test_mirrored_evaluation_uses_the_same_file(tmp_path):
    augmented_accuracy("deepaa", TINY, 0, tmp_path)
    mirrored = augmented_accuracy("deepaa", replace(TINY, mirror=True, layers=1), 0, tmp_path)[
        "details"
    ]
    found = augmented_accuracy("deepaa", TINY, 0, tmp_path)["details"]
    assert mirrored["mirrored"] and not found["mirrored"] and mirrored["layers_used"] == 1
    same = ("policy", "entropy", "top_operations", "held_out", "held_out_deep_ta")
    assert all(mirrored[name] == found[name] for name in same), (
        "what is shown is what was found, neither mirrored nor cut"
    )
    files = [path for path in tmp_path.iterdir() if path.suffix == ".json"]
    assert len(files) == 1 and load_policy(files[0]).layers >= 1


def test_a_policy_of_one_data_set_serves_another(tmp_path, monkeypatch):
    here = load(TINY.dataset, train_size=240, test_size=50)
    other = replace(
        here,
        name="other",
        train=replace(
            here.train, images=here.train.images.flip(0), labels=here.train.labels.flip(0)
        ),
        digest="other",
    )
    monkeypatch.setattr(
        experiments, "load", lambda name, **_: {"other": other, TINY.dataset: here}[name]
    )
    there = replace(TINY, dataset="other", search_dataset=TINY.dataset)
    assert policy_path(there, other, tmp_path) == policy_path(TINY, here, tmp_path)
    assert policy_path(replace(there, search_dataset=None), other, tmp_path) != policy_path(
        TINY, here, tmp_path
    )
    assert policy_path(replace(TINY, search_dataset=TINY.dataset), here, tmp_path) == policy_path(
        TINY, here, tmp_path
    )
    first = augmented_accuracy("deepaa", TINY, 0, tmp_path)["details"]
    monkeypatch.setattr(experiments, "found_by", lambda *_: pytest.fail("searched again"))
    second = augmented_accuracy("deepaa", there, 0, tmp_path)["details"]
    assert (
        second["policy"] == first["policy"]
        and second["searched_on"] == TINY.dataset
        and second["train_loss"] != first["train_loss"]
    )
    with pytest.raises(ValueError, match="has images of 32 pixels; allowed for 'big': 64"):
        find_policy(
            there,
            replace(
                other,
                name="big",
                train=replace(here.train, images=torch.zeros(240, 3, 64, 64, dtype=torch.uint8)),
            ),
            tmp_path,
        )


def test_the_dissertations_profile_searches_once_on_cifar_10_and_once_on_imagenet():
    made_by, tables, paper = {}, spec.load_tables(), spec.load_profile("paper")
    for key in ("table_3_2", "table_3_3", "table_3_4", "table_3_5", "table_3_6", "table_3_7"):
        plan = paper.tables[key]
        for row, column in ((row, column) for row in plan.rows for column in plan.columns):
            settings = spec.settings_of(tables[key], plan, row, column)
            if row.startswith(("deepaa", "layers_")):
                shaped = {
                    k: v
                    for k, v in asdict(settings).items()
                    if k.startswith(("search_", "held_out_"))
                }
                shaped["search_dataset"] = settings.search_dataset or settings.dataset
                made_by.setdefault(settings.space, set()).add(tuple(shaped.items()))
    assert {space: len(found) for space, found in made_by.items()} == {"cifar": 1, "imagenet": 1}
    assert {dict(*found)["search_dataset"] for found in made_by.values()} == {"cifar10", "imagenet"}
    assert all(dict(*found)["search_stop_identity"] == 1.0 for found in made_by.values()), (
        "six and seven layers must exist"
    )


def test_a_search_that_never_stops_has_all_its_layers(tmp_path):
    stays = replace(TINY, search_lr=1e-6, search_identity_logit=20.0, held_out_deep_ta=False)
    with pytest.warns(UserWarning, match="may never leave the identity"):
        assert augmented_accuracy("deepaa", stays, 0, tmp_path)["details"]["layers_used"] == 1
    with pytest.warns(UserWarning, match="may never leave the identity"):
        assert (
            augmented_accuracy("deepaa", replace(stays, search_stop_identity=1.0), 0, tmp_path)[
                "details"
            ]["layers_used"]
            == 2
        )


def test_memory_does_not_name_a_policy(tmp_path):
    data = load(TINY.dataset, train_size=240, test_size=50)
    assert policy_path(replace(TINY, search_chunk=32), data, tmp_path) == policy_path(
        TINY, data, tmp_path
    )


def test_an_unknown_row_and_wrong_settings(tmp_path):
    with pytest.raises(
        ValueError,
        match=(
            "none, baseline, aa, ra, ua, ta_ra, ta_wide, deepaa, deepaa_simple, deep_ta, "
            "layers_1 to layers_7"
        ),
    ):
        augmented_accuracy("autoaugment", TINY, 0, tmp_path)
    for change in (
        {"precision": "fp8"},
        {"search_steps": 0},
        {"held_out_pairs": 1},
        {"search_images": 0},
        {"lr": -1.0},
    ):
        with pytest.raises(ValueError):
            replace(TINY, **change)


def test_all_parts_of_the_split_need_every_class():
    train = load(TINY.dataset, train_size=200, test_size=50).train
    fit, guide, unseen = split_for_search(train, 140, None, 0)
    assert (
        len(fit) == 140
        and len(guide) == len(unseen) == 30
        and torch.bincount(fit.labels).tolist() == [14] * 10
    )
    assert [len(part) for part in split_for_search(train, 140, 20, 0)] == [140, 20, 20]
    for images, guide in ((5, None), (190, None), (200, None), (140, 9)):
        with pytest.raises(ValueError, match="need some of every class"):
            split_for_search(train, images, guide, 0)


def test_settings_are_plain_values():
    assert all(
        value is None or isinstance(value, str | int | float | bool | tuple)
        for value in asdict(AugmentationSettings()).values()
    )
