"The experiments of Tables 3.1 to 3.8 and 3.A at a size of seconds: rows, code, faults."

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import small_search

from effdl_nb import spec
from effdl_nb.deepaa import experiments
from effdl_nb.deepaa.experiments import (
    METHOD_KEYS,
    PROTOCOL,
    AugmentationSettings,
    SpaceSettings,
    augmented_accuracy,
    described_space,
    hyperparameters,
    operation_row,
    search_hours,
    search_quality,
)
from effdl_nb.deepaa.policy_file import load_policy
from effdl_nb.deepaa.search import PolicySearch, SearchConfig
from effdl_nb.deepaa.searches import PROXY_ROOTS, HeldOutConfig
from effdl_nb.deepaa.searching import ProxyConfig
from effdl_nb.deepaa.space import OPERATIONS
from effdl_nb.files import settings_hash
from effdl_nb.optimization import TrainConfig
from effdl_nb.rows import Unit
from effdl_nb.spec import Task

TINY = AugmentationSettings(
    dataset="cifar10-sample",
    train_size=240,
    test_size=50,
    network="small-convnet",
    train=replace(PROTOCOL, epochs=1, batch_size=50, warmup_epochs=0.0),
    proxy=ProxyConfig("small-convnet", images=140, epochs=1),
    search=SearchConfig(
        layers=2,
        steps=2,
        pairs=1,
        validation_images=3,
        prefixes=1,
        chains=4,
        lr=2.0,
        identity_logit=1.0,
        chunk=128,
    ),
    held_out=HeldOutConfig(pairs=2, chains=3),
)


def search(**changes) -> SearchConfig:
    return replace(TINY.search, **changes)


def accuracy(row, work, settings=TINY, seed=0) -> dict:
    return augmented_accuracy(Task(row, settings, seed, work, progress=False))


def details(*arguments, **named) -> dict:
    return accuracy(*arguments, **named)["details"]


def policy_files(work: Path) -> list[Path]:
    return list(work.glob("deepaa-policies-*/policy_*.json"))


def test_every_row_gives_an_accuracy_and_repeats(tmp_path):
    for row in (*METHOD_KEYS, "layers_1", "deep_ta_2"):
        searched = {"found_by": row, "preset": "quick", "options": small_search.RIVALS.get(row, {})}
        settings = replace(TINY, **searched) if row in small_search.RIVALS else TINY
        first = accuracy(row, tmp_path, settings, seed=1)
        assert 0 <= first["accuracy"] <= 100 and first["details"]["steps"] == 4
        assert accuracy(row, tmp_path, settings, seed=1) == first, row


def test_a_rivals_row_is_found_by_its_own_search(tmp_path):
    with pytest.raises(ValueError, match="found_by must be 'pba' in its row, not 'deepaa'"):
        accuracy("pba", tmp_path)
    with pytest.raises(ValueError, match="options must be empty for 'deepaa'"):
        replace(TINY, options={"members": 2})


@pytest.mark.parametrize(
    "row", ["baseline", "aa", "ra", "ua", "ta_ra", "ta_wide", "deepaa", "deepaa_simple"]
)
def test_imagenets_rows_run_on_small_images(row, tmp_path_factory):
    work = tmp_path_factory.getbasetemp() / "imagenet"
    twice = replace(TINY.train, batch_repeats=2)
    result = accuracy(row, work, replace(TINY, space="imagenet", train=twice), seed=1)
    assert 0 <= result["accuracy"] <= 100
    if row == "deepaa":
        assert result["details"]["policy"]["space"] == "imagenet"


def test_depth_is_that_of_the_settings_or_what_was_found(tmp_path):
    found = details("deepaa", tmp_path)
    for layers in (1, 2, 7):
        deeper = replace(TINY, layers=layers)
        used = details(f"layers_{layers}", tmp_path, deeper)
        assert used["layers_used"] == min(layers, found["layers_used"])
        assert used["policy"] == found["policy"], "a row carries the policy as it was found"
        assert details(f"deep_ta_{layers}", tmp_path, deeper)["layers_used"] == layers
    assert len(policy_files(tmp_path)) == 1, "depth does not shape the search"
    for row in found["policy"]["probabilities"]:
        assert abs(sum(row) - 1) < 1e-4 and len(row) == 139


def test_table_3_1_is_described_by_the_space():
    rows = [operation_row(name) for name in OPERATIONS]

    def shown(row, settings=SpaceSettings()):  # noqa: B008 (frozen)
        return described_space(Task(row, settings, 0, Path()))["magnitude"]

    assert len(rows) == 18 and shown("translate_x") == "[-0.45, 0.45]"
    assert shown("contrast") == "[0.1, 1.9]" and shown("solarize") == "[0, 256]"
    plain = ["identity", "auto_contrast", "invert", "equalize", "flip", "crop"]
    assert shown("cutout") == "16 (60)" and [r for r in rows if shown(r) == "none"] == plain
    assert shown("cutout", SpaceSettings("imagenet", "imagenet")) == "60"
    with pytest.raises(ValueError, match="identity, shear_x"):
        shown("deepaa")


def test_tables_3_5_and_3_8(tmp_path):
    task = Task("deepaa", TINY, 0, tmp_path, progress=False)
    cost = search_hours(task)
    parts = cost["details"]
    hours = (parts["proxy_seconds"] + parts["seconds"]) / 3600
    assert cost["search_hours"] == pytest.approx(hours) and parts["device"].startswith("CPU, ")
    assert search_hours(task) == cost, "what was spent once is not measured again"
    with pytest.raises(ValueError, match="not searched by this study; allowed: deepaa"):
        search_hours(replace(task, row="aa"))
    repeated = replace(TINY.train, batch_size=128, batch_repeats=8, lr=0.2)
    settings = replace(TINY, network="wrn-28-10", train=repeated)
    assert hyperparameters(Task("cifar10_ta_wide", settings, 0, tmp_path)) == {
        "model": "WRN-28-10",
        "batch_size": "128 x 8",
        "lr": 0.2,
        "weight_decay": 5e-4,
        "epochs": 1,
    }


def test_quality_of_a_seed_shares_its_proxy(tmp_path):
    plain = replace(TINY, held_out=replace(TINY.held_out, deep_ta=False))
    changes = {
        "default": {},
        "mixed": {"search": search(same_class=False)},
        "random": {"found_by": "random", "candidates": 2},
        "deep_ta": {"found_by": "deep_ta"},
    }
    rows = {
        row: search_quality(Task(row, replace(plain, **change), 3, tmp_path, progress=False))
        for row, change in changes.items()
    }
    proxies = "deepaa-proxies-*/proxy_*.safetensors"
    assert len(list(tmp_path.glob(proxies))) == 1 and len(policy_files(tmp_path)) == 4
    policies = {row: result["details"]["policy"] for row, result in rows.items()}
    assert policies["random"] != policies["default"] != policies["mixed"]
    for result in rows.values():
        last = result["details"]["held_out"][-1]
        assert result["improvement"] == last["improvement"]
        assert result["deviation"] == last["improvement_deviation"]
        assert result["layers"] == last["depth"]
    assert rows["deep_ta"]["layers"] == 2 and rows["deep_ta"]["seconds"] == 0
    search_quality(Task("default", TINY, 4, tmp_path, progress=False))
    assert len(list(tmp_path.glob(proxies))) == 2, "another seed is another proxy"


def test_the_policy_is_searched_once_for_all_seeds_and_trainings(tmp_path, monkeypatch):
    first = details("deepaa", tmp_path)
    monkeypatch.setattr(PolicySearch, "run", lambda *_: pytest.fail("searched again"))
    longer = replace(TINY, network="convnet-2", train=replace(TINY.train, epochs=2, lr=0.05))
    second = details("deepaa", tmp_path, longer, seed=1)
    assert second["policy"] == first["policy"], "the training's settings do not shape the policy"
    assert len(first["top_operations"]) == len(first["entropy"]) == first["layers_used"]
    assert len(first["held_out"]) == first["layers_used"] + 1


def test_a_damaged_policy_file_is_an_error_and_not_a_new_search(tmp_path):
    details("deepaa", tmp_path)
    (path,) = policy_files(tmp_path)
    path.write_text(path.read_text().replace("DeepAA", "DeepBB"))
    with pytest.raises(ValueError, match="changed after it was written"):
        accuracy("deepaa", tmp_path)


def test_mirrored_evaluation_uses_the_same_file(tmp_path):
    found = details("deepaa", tmp_path)
    mirrored = details("deepaa", tmp_path, replace(TINY, mirror=True, layers=1))
    assert mirrored["mirrored"] and not found["mirrored"] and mirrored["layers_used"] == 1
    same = ("policy", "entropy", "top_operations", "held_out", "held_out_deep_ta")
    as_found = "what is shown is what was found, neither mirrored nor cut"
    assert all(mirrored[name] == found[name] for name in same), as_found
    (path,) = policy_files(tmp_path)
    assert load_policy(path).layers >= 1


def test_a_policy_of_one_data_set_serves_another(tmp_path, monkeypatch):
    from effdl_nb.data import load
    from effdl_nb.deepaa import searches

    here = load(TINY.dataset, train_size=240, test_size=50)
    turned = replace(here.train, images=here.train.images.flip(0), labels=here.train.labels.flip(0))
    other = replace(here, name="other", train=turned, digest="other")
    sets = {"other": other, TINY.dataset: here}
    for module in (experiments, searches):
        monkeypatch.setattr(module, "load", lambda name, **_: sets[name])
    there = replace(TINY, dataset="other", searched_on=TINY.dataset)
    first = details("deepaa", tmp_path)
    monkeypatch.setattr(PolicySearch, "run", lambda *_: pytest.fail("searched again"))
    second = details("deepaa", tmp_path, there)
    assert second["policy"] == first["policy"] and second["searched_on"] == TINY.dataset
    assert second["train_loss"] != first["train_loss"]
    with pytest.raises(pytest.fail.Exception, match="searched again"):
        details("deepaa", tmp_path, replace(there, searched_on=None))


def test_the_dissertations_profile_searches_once_on_cifar_10_and_once_on_imagenet():
    policies, tables, profile = {}, spec.load_tables(), spec.load_profile("paper")
    for key in ("table_3_2", "table_3_3", "table_3_4", "table_3_5", "table_3_6", "table_3_7"):
        plan = profile.tables[key]
        for row, column in ((row, column) for row in plan.rows for column in plan.columns):
            settings = spec.settings_of(tables[key], plan, row, column)
            if row.startswith(("deepaa", "layers_")):
                made_by = (settings.proxy, settings.search, settings.held_out, settings.found_by)
                searched_on = settings.searched_on or settings.dataset
                policies.setdefault(settings.space, set()).add((searched_on, *made_by))
    assert {space: len(found) for space, found in policies.items()} == {"cifar": 1, "imagenet": 1}
    assert {next(iter(found))[0] for found in policies.values()} == {"cifar10", "imagenet"}
    for found in policies.values():
        config = next(iter(found))[2]
        assert config.stop_identity == 1.0, "six and seven layers must exist"


def test_a_search_that_never_stops_has_all_its_layers(tmp_path):
    alone = replace(TINY.held_out, deep_ta=False)
    stays = replace(TINY, search=search(lr=1e-6, identity_logit=20.0), held_out=alone)
    on = replace(stays, search=replace(stays.search, stop_identity=1.0))
    for settings, layers in ((stays, 1), (on, 2)):
        with pytest.warns(UserWarning, match="may never leave the identity"):
            assert details("deepaa", tmp_path, settings)["layers_used"] == layers


def test_an_unknown_row_and_wrong_settings(tmp_path):
    known = (
        "none, baseline, aa, ra, ua, ta_ra, ta_wide, deepaa, deepaa_simple, deep_ta, pba, "
        "fast_aa, faster_aa, dada, adv_aa, "
        "layers_1 to layers_7"
    )
    with pytest.raises(ValueError, match=known):
        accuracy("autoaugment", tmp_path)
    for wrong in (
        lambda: replace(TINY.train, precision="fp8"),
        lambda: search(steps=0),
        lambda: replace(TINY.held_out, pairs=1),
        lambda: replace(TINY.proxy, images=0),
        lambda: replace(TINY.proxy, precision="fp8"),
        lambda: replace(TINY.train, lr=-1.0),
        lambda: replace(TINY, train=TrainConfig(seed=1)),
        lambda: replace(TINY, layers=0),
        lambda: replace(TINY, found_by="gradient"),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_settings_are_plain_values():
    def plain(value):
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        return value is None or isinstance(value, str | int | float | bool | tuple)

    assert plain(asdict(AugmentationSettings()))


def test_shared_folders_bear_the_hash_of_what_made_them(tmp_path):
    details("deepaa", tmp_path)
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    task = Task("deepaa", TINY, 0, tmp_path)
    roots = ("effdl_nb.deepaa.searches:find_policy", "effdl_nb.deepaa.search:PolicySearch")
    assert task.shared("deepaa-policies", *roots).name in folders
    proxies = task.shared("deepaa-proxies", *PROXY_ROOTS)
    assert proxies.name in folders and len(list(proxies.glob("*.safetensors"))) == 1


def test_an_interrupted_training_is_resumed(tmp_path, monkeypatch):
    straight = accuracy("none", tmp_path / "straight", replace(TINY, train=longer()))
    real = experiments.train

    def stopped(*arguments, **named):
        def stop(model, step, epoch):
            if step == 6:  # in the second of two epochs of four steps
                raise KeyboardInterrupt

        return real(*arguments, **named, on_step=stop)

    monkeypatch.setattr(experiments, "train", stopped)
    work = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        accuracy("none", work, replace(TINY, train=longer()))
    monkeypatch.setattr(experiments, "train", real)
    (kept,) = work.glob("deepaa-trainings-*/*.ckpt")
    assert kept.name.startswith("none_0_")
    resumed = accuracy("none", work, replace(TINY, train=longer()))
    assert resumed == straight and not kept.exists()


def longer() -> TrainConfig:
    return replace(TINY.train, epochs=2)


def test_where_x_comes_from_counts_in_a_rows_hash_only_where_it_is_not_the_default():
    def unit(settings):
        return Unit("table_3_2", "deepaa", 0, settings, ("a",), ())

    plain = AugmentationSettings()
    later = ("x_from", "preset", "options")
    before = {k: v for k, v in asdict(plain).items() if k not in later}
    assert unit(plain).hash == settings_hash(["table_3_2", "deepaa", 0, before])
    assert unit(replace(plain, x_from="proxy")).hash != unit(plain).hash
    assert unit(replace(plain, mirror=True)).hash != unit(plain).hash
