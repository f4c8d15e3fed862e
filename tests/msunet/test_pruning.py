"Properties and faults of effdl_nb.msunet.pruning that its notebook does not show."

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effdl_nb.msunet.conversion import unwrapped
from effdl_nb.msunet.network import msunet
from effdl_nb.msunet.pruning import MagnitudePruner, cubic_sparsity, targets_by_role
from effdl_nb.msunet.score import micronet_score
from effdl_nb.optimization import TrainConfig
from effdl_nb.training import train


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def compiled(model):
    "The model under the name that torch.compile uses (importing the compiler takes ten seconds)."
    outer = nn.Module()
    outer._orig_mod = model
    return outer


def prune_to(model, targets, epoch=10.0):
    "A pruner whose masks are those of `epoch` of a schedule of 10 epochs, applied."
    pruner = MagnitudePruner(model, targets, end=10)
    pruner.update(epoch)
    pruner.apply()
    return pruner


@settings(max_examples=60, deadline=None)
@given(st.floats(-50, 250), st.floats(0, 100), st.floats(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_schedule_stays_in_its_bounds_and_never_falls(epoch, begin, length, a, b):
    initial, final = sorted((a, b))
    s = cubic_sparsity(epoch, begin, begin + length, final, initial)
    assert initial - 1e-12 <= s <= final + 1e-12
    assert cubic_sparsity(epoch + 0.5, begin, begin + length, final, initial) >= s - 1e-12


def test_schedule_of_no_length_jumps():
    assert [cubic_sparsity(e, 3, 3, 0.8, 0.1) for e in (2.99, 3, 4)] == [
        pytest.approx(0.1),
        0.8,
        0.8,
    ]


@pytest.mark.parametrize(
    "arguments, seen",
    [
        ((0, 0, 1, 1.5), "1.5"),
        ((0, 0, 1, -0.1), "-0.1"),
        ((0, 2, 1, 0.5), "from 2 to 1"),
        ((math.nan, 0, 1, 0.5), "nan"),
        ((0, 0, 1, 0.5, 0.6), "0.6"),
        ((0, math.nan, 1, 0.5), "nan"),
        ((0, 0, 1, math.nan), "nan"),
        ((0, 0, 1, "half"), "half"),
    ],
)
def test_schedule_refuses(arguments, seen):
    with pytest.raises(ValueError, match=seen):
        cubic_sparsity(*arguments)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.booleans(),
)
def test_counts_are_exact_whatever_the_type_and_the_ties(seed, share, dtype, coarse):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(13, 7).to(dtype)
    w = torch.randn(7, 13, generator=generator)
    model.weight.data.copy_((w * 2).round() if coarse else w)
    before = model.weight.detach().clone()
    pruner = prune_to(model, {"": share})
    kept, gone = before[model.weight_mask], before[~model.weight_mask]
    assert gone.numel() == round(share * 91)
    assert not kept.numel() or not gone.numel() or gone.abs().max() <= kept.abs().min()
    assert (
        torch.equal(model.weight[model.weight_mask], kept)
        and not model.weight[~model.weight_mask].any()
    )
    again = nn.Linear(13, 7).to(dtype)
    again.weight.data.copy_(before)
    prune_to(again, {"": share})
    assert torch.equal(again.weight_mask, model.weight_mask), "ties are broken the same way"
    assert pruner.sparsity()[""] >= round(share * 91) / 91 - 1e-12


def test_masks_are_nested_and_nothing_comes_back_even_if_it_has_grown():
    model = net()
    pruner = MagnitudePruner(model, {"0": 0.9}, end=10)
    before = torch.ones_like(model[0].weight, dtype=torch.bool)
    for epoch in range(11):
        pruner.update(epoch)
        pruner.apply()
        assert not (model[0].weight_mask & ~before).any()
        before = model[0].weight_mask.clone()
        with torch.no_grad():
            model[0].weight[~before] = 100.0  # what a large momentum could do during a step
            model[0].weight[before] *= torch.rand(int(before.sum())) + 0.5
    pruner.finalize()
    assert int(model[0].weight.count_nonzero()) == model[0].weight.numel() - round(
        0.9 * model[0].weight.numel()
    )


def test_exact_zeros_among_the_kept_are_not_confused_with_pruned_ones():
    model = nn.Linear(10, 1, bias=False)
    model.weight.data = torch.arange(10.0).view(1, 10)
    pruner = prune_to(model, {"": 0.3})
    model.weight.data[0, 9] = 0.0  # a kept weight passes through zero
    pruner.update(10)
    assert (~model.weight_mask).flatten().nonzero().flatten().tolist() == [0, 1, 2]
    assert pruner.sparsity()[""] == pytest.approx(0.4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_have_no_order_raise_with_the_layer_and_their_number(value):
    model = net()
    pruner = MagnitudePruner(model, {"0": 0.5, "5": 0.5})
    model[5].weight.data[1, 2] = value
    mask = model[5].weight_mask.clone()
    with pytest.raises(ValueError, match=r"1 of 18 weights of '5'"):
        pruner.update(3)
    assert torch.equal(model[5].weight_mask, mask)


@pytest.mark.parametrize(
    "targets, seen",
    [
        ({"encoder.*": 0.5}, "'encoder.*' matches no layer.*'0', '5'"),
        ({"1": 0.5}, "'1' matches no layer"),
        ({"0": 0.5, "*": 0.6}, "'0' gets 0.5 by '0' and 0.6"),
        ({"0": True + 0.5}, "1.5"),
        ({"0": None}, "None"),
        ({}, "empty"),
    ],
)
def test_wrong_targets_name_what_was_seen(targets, seen):
    model = net()
    with pytest.raises(ValueError, match=seen):
        MagnitudePruner(model, targets)
    assert not any(key.endswith("mask") for key in model.state_dict()), (
        "a refused pruner leaves nothing behind"
    )


def test_equal_targets_of_two_patterns_agree_and_a_schedule_backwards_is_refused():
    assert list(MagnitudePruner(net(), {"0": 0.5, "[05]": 0.5}).layers) == ["0", "5"]
    with pytest.raises(ValueError, match="from 5 to 4"):
        MagnitudePruner(net(), {"0": 0.5}, begin=5, end=4)


def test_ternary_layers_are_refused_by_name_and_by_pattern():
    model = msunet("v1", width=0.125, num_classes=4)
    for pattern in ("head.0", "*.project.*"):
        with pytest.raises(ValueError, match="ternary layers, whose zeros come from alpha"):
            MagnitudePruner(model, {pattern: 0.5})
    with pytest.raises(ValueError, match="'sse'.*depthwise, other, se, ternary"):
        targets_by_role(model, {"sse": 0.5})


def test_a_lazy_layer_and_a_foreign_mask_are_refused():
    with pytest.raises(ValueError, match="lazy"):
        MagnitudePruner(nn.Sequential(nn.LazyLinear(3)), {"*": 0.5})
    model = net()
    model[0].register_buffer("weight_mask", torch.ones(6, 3, 3, 3))
    with pytest.raises(ValueError, match="float32"):
        MagnitudePruner(model, {"0": 0.5})


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, compiled, lambda model: compiled(nn.DataParallel(model)), nn.Sequential],
)
def test_wrappers_do_not_change_names(wrap):
    model = net()
    wrapped = wrap(model)
    inside = not isinstance(wrapped, nn.Sequential)
    pruner = MagnitudePruner(wrapped, {"0" if inside else "0.0": 0.5})
    assert next(iter(pruner.layers.values()))[0] is model[0]
    pruner.on_step(unwrapped(wrapped), 0, 0.0)
    assert unwrapped(wrapped) is (model if inside else wrapped)


def test_a_module_that_is_called_module_keeps_its_name():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(3, 3)

    assert list(MagnitudePruner(Outer(), {"module": 0.5}).layers) == ["module"]


def test_shared_weights_are_one_layer_under_either_name():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    assert list(MagnitudePruner(copy.deepcopy(model), {"*": 0.5}).layers) == ["0"]
    pruner = prune_to(model, {"1": 0.25})
    assert sum(key.endswith("mask") for key in model.state_dict()) == 1
    pruner.finalize()
    assert int((model[1].weight == 0).sum()) == 16 and model[0].weight is model[1].weight
    with pytest.raises(ValueError, match="one target per weight"):
        MagnitudePruner(model, {"0": 0.5, "1": 0.25})
    twice = nn.Linear(4, 4)
    assert list(MagnitudePruner(nn.Sequential(twice, twice), {"1": 0.5}).layers) == ["0"]


def test_state_passes_through_a_file_and_a_new_pruner_goes_on():
    model = net()
    pruner = prune_to(model, {"0": 0.8, "5": 0.5}, epoch=4)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = net(seed=9)
    successor = MagnitudePruner(other, {"0": 0.8, "5": 0.5}, end=10)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert (
        torch.equal(other[0].weight_mask, model[0].weight_mask)
        and successor.sparsity() == pruner.sparsity()
    )
    for each in (pruner, successor):
        each.update(7)
        each.apply()
    assert torch.equal(other[0].weight, model[0].weight)
    with pytest.raises(RuntimeError, match="weight_mask"):
        net().load_state_dict(model.state_dict())
    pruner.finalize()
    net().load_state_dict(model.state_dict())


def test_a_copy_of_the_model_is_another_model_and_a_copy_of_both_belongs_together():
    model = net()
    pruner = prune_to(model, {"0": 0.5}, epoch=3)
    lone = copy.deepcopy(model)
    with pytest.raises(ValueError, match="another Sequential"):
        pruner.on_step(lone, 0, 0.0)
    assert torch.equal(
        MagnitudePruner(lone, {"0": 0.5}).layers["0"][0].weight_mask, model[0].weight_mask
    ), "masks that are there are kept"
    twin, its_pruner = copy.deepcopy((model, pruner))
    its_pruner.on_step(twin, 0, 10.0)
    assert (twin[0].weight == 0).sum() > (model[0].weight == 0).sum()


def test_finalize_twice_then_nothing_but_a_new_pruner():
    model = net()
    pruner = prune_to(model, {"0": 0.5})
    first = pruner.finalize()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    assert pruner.finalize() == first == {"0": round(0.5 * 162) / 162}
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and list(
        state
    ) == list(net().state_dict())
    for call in (lambda: pruner.update(1), pruner.apply, lambda: pruner.on_step(model, 0, 0.0)):
        with pytest.raises(ValueError, match="finalized"):
            call()
    assert prune_to(model, {"0": 0.5}).sparsity() == first, (
        "the zeros are the smallest magnitudes of the next pruner"
    )


def test_masks_follow_type_and_layout_of_the_model():
    model = net()
    pruner = prune_to(model, {"0": 0.5}, epoch=5)
    reference = net()
    reference.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.endswith("mask")}
    )
    model.to(memory_format=torch.channels_last).half()
    assert model[0].weight_mask.dtype == torch.bool
    pruner.update(10)
    pruner.apply()
    reference.half()
    prune_to(reference, {"0": 0.5}, epoch=5)
    prune_to(reference, {"0": 0.5})
    assert torch.equal(reference[0].weight, model[0].weight)


@pytest.mark.parametrize("stop", [5, 8, 13])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_run_resumed_mid_schedule_is_the_same_bit_for_bit(tmp_path, stop, channels_last):
    images, labels = (
        torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1)),
        torch.arange(32) % 3,
    )
    config = TrainConfig(epochs=4, batch_size=8, lr=0.1, nesterov=True, channels_last=channels_last)

    class Stop(Exception):
        pass

    def run(checkpoint=None, stop=None):
        model = net()
        pruner = MagnitudePruner(model, {"0": 0.8, "5": 0.4}, end=3)

        def hook(model, step, epoch):
            if step == stop:
                raise Stop
            pruner.on_step(model, step, epoch)

        train(
            model,
            images,
            labels,
            config,
            on_step=hook,
            checkpoint=checkpoint,
            checkpoint_every=1,
            progress=False,
        )
        return model, pruner

    whole, pruner = run()
    with pytest.raises(Stop):
        run(tmp_path / "checkpoint", stop)
    resumed, its_pruner = run(tmp_path / "checkpoint")
    assert list(whole.state_dict()) == list(resumed.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    assert (
        pruner.finalize()
        == its_pruner.finalize()
        == {"0": round(0.8 * 162) / 162, "5": round(0.4 * 18) / 18}
    )


def test_zeros_reach_the_score_of_v3():
    torch.manual_seed(0)
    model = msunet("v3")
    prune_to(model, targets_by_role(model, {"se": 0.9, "depthwise": 0.5})).finalize()
    live = micronet_score(
        model, policy="msunet-v3", quantization="ternary", precision=16, sparsity={"ternary": 0.5}
    )
    imposed = micronet_score(
        model,
        policy="msunet-v3",
        quantization="ternary",
        precision=16,
        sparsity={"ternary": 0.5, "se": 0.9, "depthwise": 0.5},
    )
    assert live.flops == pytest.approx(imposed.flops, rel=1e-4) and live.params == pytest.approx(
        imposed.params, rel=1e-4
    )
    assert imposed.params == pytest.approx(0.098604e6, rel=1e-5)
