"Properties and faults of effdl_nb.msunet.stages that its notebook does not show."

import dataclasses
import math
from functools import partial

import pytest
import shared_trainings
import torch
from ranks import run_ranks
from safetensors.torch import load_file
from toys import TINY_MSUNET as TINY

from effdl_nb.msunet import stages
from effdl_nb.msunet.pruning import targets_by_role
from effdl_nb.msunet.recipe import MSUNetSettings, switches
from effdl_nb.msunet.stages import (
    BOTH_STAGES,
    stage_one,
    stage_one_record,
    stage_two,
    train_msunet,
)


def changed(settings, stage1=(), stage2=(), **changes):
    "The settings with fields of their stages, or their own, replaced."
    stages = {
        "stage1": dataclasses.replace(settings.stage1, **dict(stage1)),
        "stage2": dataclasses.replace(settings.stage2, **dict(stage2)),
    }
    return dataclasses.replace(settings, **stages, **changes)


class Killed(RuntimeError):
    pass


def kill_at(monkeypatch, step: int, stage: int):
    "Let the given training die before a step."
    train, calls = stages.train, []

    def dying(*args, on_step=None, **kwargs):
        calls.append(1)
        if len(calls) != stage:
            return train(*args, on_step=on_step, **kwargs)

        def hook(model, at, epoch):
            if at == step:
                raise Killed
            if on_step is not None:
                on_step(model, at, epoch)

        return train(*args, on_step=hook, **kwargs)

    monkeypatch.setattr(stages, "train", dying)


def same(a, b) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def kept(folder, name):
    "What a process of a test kept of its training."
    return load_file(folder / name)


def test_two_processes_train_as_one(tmp_path):
    work = tmp_path / "two"
    assert run_ranks(shared_trainings.msunet, tmp_path, "two", work, "off", True) == []
    shared_trainings.msunet(tmp_path, "one", tmp_path / "one", "off", True)
    one, two, other = (kept(tmp_path, name) for name in ("one.0", "two.0", "two.1"))
    assert two.keys() == one.keys() and all(two[key].equal(other[key]) for key in two)
    torch.testing.assert_close(two["loss"], one["loss"], atol=1e-5, rtol=0)
    for key in one.keys() - {"loss"}:
        torch.testing.assert_close(two[key], one[key], atol=1e-4, rtol=1e-3)
    assert sorted(p.suffix for p in work.iterdir()) == [".lock", ".safetensors"]


def test_a_lost_process_leaves_no_trace_in_the_numbers(tmp_path):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    run = partial(run_ranks, shared_trainings.msunet, tmp_path)
    for stage in (1, 2):  # in the last of three epochs: the first one's checkpoint is written
        assert "killed by 9" in run("cut", parts, "released", False, (stage, 2))
        assert [p.name[:6] for p in parts.glob("*.checkpoint")] == [f"stage{stage}"]
    assert run("cut", parts, "released") == run("whole", whole, "released") == []
    first, *others = (kept(tmp_path, f"{name}.{n}") for name in ("whole", "cut") for n in "01")
    assert all(first[key].equal(other[key]) for other in others for key in first)
    assert not list(parts.glob("*.checkpoint"))


def test_cuts_up_to_the_end_of_a_rounded_stage_reach_their_share(tmp_path):
    # 2.8 steps, which are 3
    stage2 = {"epochs": 0.4, "prune_until": 1.0}
    s = changed(TINY, {"epochs": 1}, stage2, train_size=70)
    model = train_msunet(s, 0, tmp_path).model
    layers = dict(model.named_modules())
    for name, share in targets_by_role(model, {"se": 0.9, "depthwise": 0.5}).items():
        weight = layers[name].weight
        assert int((weight == 0).sum()) == round(share * weight.numel()), name


@pytest.mark.parametrize(
    "stage, step, consistency", [(1, 5, "off"), (2, 3, "thesis"), (2, 6, "off")]
)
def test_an_interruption_leaves_no_trace_in_the_numbers(
    tmp_path, monkeypatch, stage, step, consistency
):
    settings = dataclasses.replace(TINY, consistency=consistency)
    whole = train_msunet(settings, 3, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, step, stage)
        with pytest.raises(Killed):
            train_msunet(settings, 3, tmp_path / "parts")
    resumed = train_msunet(settings, 3, tmp_path / "parts")
    assert (
        same(resumed.model, whole.model)
        and resumed.loss == whole.loss
        and resumed.accuracy == whole.accuracy
    )
    assert not list((tmp_path / "parts").glob("*.checkpoint"))


def test_stage_1_is_trained_once_for_all_that_share_it(tmp_path, monkeypatch):
    trained = []
    train = stages.train
    monkeypatch.setattr(
        stages,
        "train",
        lambda *args, **kwargs: (
            trained.append(kwargs["checkpoint"].name[:6]) or train(*args, **kwargs)
        ),
    )
    for pruning in ("off", "full"):
        train_msunet(dataclasses.replace(TINY, pruning=pruning), 0, tmp_path)
    assert sorted(trained) == ["stage1", "stage2", "stage2"]
    train_msunet(changed(TINY, {"alpha": 0.5}), 0, tmp_path)
    assert trained.count("stage1") == 2, "another threshold is another stage 1"


def test_the_name_of_stage_1_holds_everything_that_shapes_it():
    stages = {"stage1", "stage2"}
    # through the expansions and the form of the regularizer
    resolved = {"variant", "consistency", "pruning"}
    assert {f.name for f in dataclasses.fields(MSUNetSettings)} == {
        *BOTH_STAGES
    } | stages | resolved
    assert stage_one_record(TINY, 0)["stage1"] == dataclasses.asdict(TINY.stage1)
    assert stage_one_record(TINY, 0) == stage_one_record(changed(TINY, {}, {"lr": 1.0}), 0)
    v2, v3 = (stage_one_record(MSUNetSettings(variant=v), 0) for v in ("v2", "v3"))
    assert v2 != v3 and v2 == stage_one_record(MSUNetSettings(variant="v1"), 0)
    assert stage_one_record(MSUNetSettings(variant="v0", consistency="released"), 0) == v2


def test_a_damaged_stage_1_is_named(tmp_path):
    stage_one(TINY, 0, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    for content in (path.read_bytes()[:200], b"", b"not a file of tensors"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name} is not a whole stage 1.*delete it"):
            stage_one(TINY, 0, tmp_path)


def test_training_does_not_touch_the_global_random_state_and_does_not_depend_on_it(tmp_path):
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(train_msunet(TINY, 0, tmp_path / str(seed)))
        assert torch.equal(torch.get_rng_state(), state)
    assert same(results[0].model, results[1].model)


def test_no_stage_2_means_nothing_is_pruned_and_signs_are_frozen(tmp_path):
    settings = changed(TINY, {}, {"epochs": 0}, variant="v3", pruning="variant")
    trained = train_msunet(settings, 0, tmp_path)
    assert trained.steps[1] == 0 and len(trained.loss) == 2
    roles = trained.model.layer_roles()
    assert all(
        (module.weight != 0).any()
        for name, module in trained.model.named_modules()
        if roles.get(name) in ("se", "depthwise")
    )
    assert switches(settings).sparse_se == 0 and switches(settings).precision == 16


def test_masks_are_renewed_a_hundred_times_along_the_ramp_and_not_after():
    class Spy:
        def __init__(self):
            self.updates = []

        def update(self, epoch):
            self.updates.append(epoch)

        def apply(self):
            pass

    for ramp, renewals in ((500, 101), (100, 101), (30, 31), (0, 1)):
        spy = Spy()
        for step in range(1000):
            stages._prune(spy, ramp, None, step, step / 500)
        assert (
            len(spy.updates) == renewals and spy.updates[0] == 0 and spy.updates[-1] == ramp / 500
        )


def test_unknown_data_sets_and_image_sizes_are_named(tmp_path):
    with pytest.raises(ValueError, match="cifar11"):
        stage_one(dataclasses.replace(TINY, dataset="cifar11"), 0, tmp_path)
    with pytest.raises(ValueError, match="not 12 for images of 32x32"):
        stage_one(dataclasses.replace(TINY, image_size=12), 0, tmp_path)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path, precision):
    settings = changed(
        TINY,
        {"epochs": 1},
        {"epochs": 1, "precision": precision},
        augment="none",
        variant="v3",
        pruning="variant",
    )
    assert all(math.isfinite(value) for value in train_msunet(settings, 0, tmp_path).loss)


def test_stage_2_leaves_a_float_network_trainable(tmp_path):
    settings = dataclasses.replace(TINY, quantization="none")
    model, _ = stage_one(settings, 0, tmp_path)
    before = model.head[0].weight.detach().clone()
    stage_two(model, settings, 0, tmp_path)
    assert not torch.equal(before, model.head[0].weight)


@pytest.mark.filterwarnings("ignore:.*more than 95% zeros")
def test_stage_1_may_be_kept_apart_from_what_the_second_leaves(tmp_path):
    settings = changed(TINY, {"epochs": 1}, {"epochs": 1}, train_size=20)
    train_msunet(settings, 0, tmp_path / "work", tmp_path / "shared", progress=False)
    kept = {path.suffix for path in (tmp_path / "shared").iterdir()}
    assert kept <= {".safetensors", ".lock"} and ".safetensors" in kept
    assert not list((tmp_path / "work").iterdir())
