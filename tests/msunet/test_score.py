"Properties and faults of effdl_nb.msunet.score that its notebook does not show."

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effdl_nb.msunet.conversion import convert_ternary_, freeze_ternary_
from effdl_nb.msunet.costs import POLICIES, per_value
from effdl_nb.msunet.deployment import deploy
from effdl_nb.msunet.network import layer_roles, msunet
from effdl_nb.msunet.score import WRN_FLOPS, WRN_PARAMS, UnknownOperation, micronet_score

# exact operations and parameters, and how the released networks' own counts print them in
# millions, with the score
SE = {"ternary": 0.5, "se": 0.9}
ALL = SE | {"depthwise": 0.5}
GOLDEN = [
    ("v0", "msunet-v1", "ternary", SE, 32, 127_321_500, 212_754, "127.3215 0.212754 0.01797"),
    ("v0", "msunet-v3", "ternary", ALL, 16, 104_590_492, 121_269, "104.5905 0.121269 0.01329"),
    ("v3", "msunet-v3", None, None, 32, 318_082_076, 1_200_648, "318.0821 1.200648 0.06322"),
    ("v3", "msunet-v3", "binary", None, 16, 170_040_028, 220_173, "170.0400 0.220173 0.02224"),
    (
        *("v3", "msunet-v3", "ternary", {"ternary": 0.5}, 32),
        *(109_349_916, 427_674, "109.3499 0.427674 0.02214"),
    ),
    ("v3", "msunet-v3", "ternary", ALL, 16, 90_772_674.4, 98_604.05, "90.7727 0.098604 0.01135"),
]


@pytest.fixture(scope="module")
def nets():
    return {(v, q): msunet(v, quantization=q) for v in ("v0", "v3") for q in (None, "ternary")}


@pytest.mark.parametrize(
    "live, variant, policy, quantization, sparsity, precision, flops, params, printed",
    [
        # quantization=None counts live weights as they are
        (live, *row)
        for row in GOLDEN
        for live in (None, "ternary")
        if row[2] or not live
    ],
)
def test_golden_rows(
    nets, live, variant, policy, quantization, sparsity, precision, flops, params, printed
):
    score = micronet_score(
        nets[variant, live],
        policy=policy,
        quantization=quantization,
        sparsity=sparsity,
        precision=precision,
    )
    assert math.isclose(score.flops, flops, rel_tol=1e-7)
    assert math.isclose(score.params, params, rel_tol=1e-7)
    assert math.isclose(score.score, flops / 10.49e9 + params / 36.5e6, rel_tol=1e-7)
    assert f"{flops / 1e6:.4f} {params / 1e6:.6f} {score.score:.5f}" == printed
    assert score.score == score.flops / WRN_FLOPS + score.params / WRN_PARAMS
    assert score.flops == score.mults + score.adds and not score.unknown and not score.unused


def as_compiled(model):
    "A module that holds another under the name that torch.compile uses."
    holder = nn.Module()
    holder._orig_mod = model
    return holder


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, as_compiled, lambda m: as_compiled(nn.DataParallel(m)), nn.Sequential]
)
def test_wrapped_networks_count_alike(nets, wrap):
    settings = dict(
        policy="msunet-v3",
        quantization="ternary",
        precision=16,
        sparsity={"ternary": 0.5, "se": 0.9, "depthwise": 0.5},
    )
    score = micronet_score(wrap(nets["v3", None]), **settings)
    assert math.isclose(score.flops, 90_772_674.4, rel_tol=1e-9) and math.isclose(
        score.params, 98_604.05, rel_tol=1e-9
    )


def test_roles_of_an_inner_network_have_its_prefix_and_the_outermost_word_holds(nets):
    inner = nets["v3", None]
    outer = nn.Sequential(nn.Conv2d(3, 3, 1), inner, nn.ModuleList([as_compiled(inner.head)]))
    expected = {"0": "ternary"} | {f"1.{name}": role for name, role in inner.layer_roles().items()}
    assert layer_roles(outer) == expected

    class Says(nn.Sequential):
        def layer_roles(self):
            return {"0.0": "other"}

    assert layer_roles(nn.Sequential(Says(Says(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))))) == {
        "0.0.0": "other",
        "0.0.1": "ternary",
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_every_stored_scale_of_a_deployed_layer_counts(policy):
    model = nn.Sequential(nn.Conv2d(8, 6, 1, bias=False))
    convert_ternary_(model)
    freeze_ternary_(model)
    one = micronet_score(model, (8, 4, 4), policy=policy)
    model[0].scale = model[0].scale * torch.ones(6, 1, 1, 1)
    each = micronet_score(model, (8, 4, 4), policy=policy)
    assert each.params == one.params + 5 and each.flops == one.flops
    assert (
        micronet_score(model, (8, 4, 4), policy=policy, precision=16).params == one.params - 1 + 3
    )


def conv(**more):
    torch.manual_seed(0)
    return nn.Conv2d(4, 8, 3, **more)


def test_conv_and_linear_by_hand():
    score = micronet_score(nn.Sequential(conv(), nn.Flatten(), nn.Linear(8 * 3 * 4, 5)), (4, 5, 6))
    n = 8 * 3 * 4  # outputs
    assert score.mults == 36 * n + n * 5
    assert score.adds == 35 * n + n + (n - 1) * 5 + 5
    assert score.params == 4 * 8 * 9 + 8 + n * 5 + 5
    authors = micronet_score(
        nn.Sequential(conv(), nn.Flatten(), nn.Linear(8 * 3 * 4, 5)), (4, 5, 6), policy="msunet-v3"
    )
    assert score.params - authors.params == 5 and score.adds - authors.adds == 5, (
        "the authors leave the classifier's bias out"
    )


@pytest.mark.parametrize(
    "layer, products",
    [
        (nn.Conv2d(4, 8, 3, groups=2), 8 * 3 * 4 * 18),
        (nn.Conv2d(4, 4, 3, groups=4), 4 * 3 * 4 * 9),
        (nn.ConvTranspose2d(4, 8, 2, stride=2), 4 * 5 * 6 * 8 * 4),
    ],
    ids=["grouped", "depthwise", "transposed"],
)
def test_grouped_depthwise_and_transposed_products_agree_with_torch(layer, products):
    score = micronet_score(layer, (4, 5, 6))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.zeros(1, 4, 5, 6))
    assert score.mults == products == counter.get_total_flops() / 2
    outputs = layer(torch.zeros(1, 4, 5, 6)).numel()
    assert score.adds == products - outputs + outputs and score.params == sum(
        p.numel() for p in layer.parameters()
    )


def test_one_dimensional_convolutions():
    score = micronet_score(nn.Conv1d(3, 5, 4, bias=False), inputs=(torch.zeros(1, 3, 10),))
    assert (score.mults, score.adds, score.params) == (12 * 35, 11 * 35, 60)


@pytest.mark.parametrize(
    "name, size", [("resnet18", 64), ("mobilenet_v3_small", 64), ("densenet121", 32)]
)
def test_torchvision_models_agree_with_torch_on_products(name, size):
    model = torchvision.models.get_model(name, weights=None).eval()
    score = micronet_score(model, (3, size, size))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    assert (
        sum(c.mults for c in score.by_module.values() if c.kind in ("Conv2d", "Linear"))
        == counter.get_total_flops() / 2
    )
    assert not score.unused and not score.unknown


def test_resnet_parameters_are_weights_plus_one_bias_for_each_folded_channel():
    model = torchvision.models.resnet18(weights=None)
    norms = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert (
        micronet_score(model, (3, 32, 32)).params
        == sum(p.numel() for p in model.parameters()) - norms
    )


def test_batch_norm_folds_only_into_a_product_that_nothing_else_reads():
    class Reader(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.conv, self.norm, self.shared = (
                nn.Conv2d(2, 3, 1, bias=False),
                nn.BatchNorm2d(3),
                shared,
            )

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y if self.shared else self.norm(y)

    folded, shared = (
        micronet_score(Reader(False), (2, 4, 4)),
        micronet_score(Reader(True), (2, 4, 4)),
    )
    first = micronet_score(nn.BatchNorm2d(2), (2, 4, 4))
    assert folded.by_module["norm"].params == 3 and folded.by_module["norm"].mults == 0
    assert shared.by_module["norm"].params == 6 and shared.by_module["norm"].mults == 48
    assert first.params == 4 and first.mults == first.adds == 32


@pytest.mark.parametrize("policy", POLICIES)
def test_batches_and_aspect_ratios(policy):
    model = msunet("v3", width=0.125, num_classes=10)
    one, many = (
        micronet_score(model, (3, 12, 20), policy=policy),
        micronet_score(model, (5, 3, 12, 20), policy=policy),
    )
    turned = micronet_score(model, (3, 20, 12), policy=policy)
    assert math.isclose(one.flops, many.flops) and one.params == many.params
    assert math.isclose(one.flops, turned.flops) and one.params == turned.params


def test_live_zeros_bits_and_precision_are_read_from_the_weights():
    model = nn.Sequential(conv(bias=False))
    weight = model[0].weight.data
    weight.view(-1)[: weight.numel() // 2] = 0
    score = micronet_score(model, (4, 5, 6))
    assert score.by_module["0"].sparsity == 0.5
    assert score.params == 288 / 32 + 144 and score.mults == 18 * 96 and score.adds == 17 * 96
    half = micronet_score(model.half(), (4, 5, 6))
    assert half.params == 288 / 32 + 72 and half.mults == 9 * 96 and half.adds == 17 * 96
    assert micronet_score(model, (4, 5, 6), accumulator_bits=16).adds == 17 * 48


def test_one_zero_weight_does_not_buy_a_mask():
    model = nn.Sequential(conv(bias=False))
    model[0].weight.data[0, 0, 0, 0] = 0
    assert micronet_score(model, (4, 5, 6)).params == 288


def test_binary_is_told_from_ternary_by_its_weights_and_frozen_counts_alike():
    for alpha, kind in ((0.0, "binary"), (0.7, "ternary")):
        model = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False))
        convert_ternary_(model, alpha=alpha)
        live = micronet_score(model, (8, 4, 4))
        freeze_ternary_(model)
        assert live.by_module["0"].quantized == kind and micronet_score(model, (8, 4, 4)) == live
        zeros = int((model[0].signs == 0).sum())
        assert live.params == (64 / 32 if zeros else 0) + (64 - zeros) / 32 + 1


def test_ternary_linear_layers_follow_the_ternary_rule_under_every_policy():
    model = nn.Sequential(nn.Linear(16, 4))
    convert_ternary_(model, lambda name, module: True, alpha=0.0)
    for policy in POLICIES:
        score = micronet_score(model, inputs=(torch.zeros(1, 16),), policy=policy)
        assert (
            score.params == 64 / 32 + 1 + 4 and score.mults == 64 / 32 + 4 and score.adds == 60 + 4
        )


def test_shared_weights_are_stored_once_and_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x):
            return self.layer(self.layer(x))

    score = micronet_score(Twice(), (4, 3, 3))
    assert score.params == 16 and score.mults == 2 * 16 * 9


def test_functional_calls_and_constants_are_seen():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 4))
            self.shift = nn.Parameter(torch.ones(5))
            self.spare = nn.Parameter(torch.ones(7))
            self.plain = torch.ones(5)  # neither parameter nor buffer

        def forward(self, x):
            scaled_weight = self.weight / self.weight.norm()
            return F.relu(
                F.linear(x.flatten(1), scaled_weight) + self.shift
            ) * self.plain + torch.zeros(5)

    score = micronet_score(Functional(), (4, 1, 1))
    assert score.params == 20 + 5 + 5 and score.unused == ("spare",)
    assert score.mults == 20 + 5 + 5 and score.adds == 15 + 5 + 5


def test_attention_is_counted_whole():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    score = micronet_score(layer, inputs=(torch.zeros(1, 5, 16),))
    products = 5 * 16 * 48 + 5 * 16 * 16 + 2 * 5 * 16 * 32 + 2 * 5 * 5 * 16
    assert products < score.mults < products + 2000
    assert score.params == sum(p.numel() for p in layer.parameters())


def test_unknown_operations_stop_the_count_or_are_listed():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.FractionalMaxPool2d(2, output_size=4))
    with pytest.raises(UnknownOperation, match="fractional_max_pool2d in 1"):
        micronet_score(model, (3, 8, 8))
    listed = micronet_score(model, (3, 8, 8), on_unknown="list")
    assert len(listed.unknown) == 1 and "UNKNOWN, not counted: fractional_max_pool2d" in str(listed)
    with pytest.raises(UnknownOperation, match="batch statistics"):
        micronet_score(nn.BatchNorm2d(3, track_running_stats=False), (3, 8, 8))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"policy": "msunet-v2"},
            "policy 'msunet-v2' is unknown; allowed: official, msunet-v1, msunet-v3",
        ),
        (
            {"quantization": "int8"},
            "quantization 'int8' is unknown; allowed: None, binary, ternary",
        ),
        ({"precision": 8}, "precision must be 16, 32 or None, not 8"),
        ({"accumulator_bits": 64}, "accumulator_bits must be from 1 to 32, not 64"),
        (
            {"sparsity": {"squeeze": 0.5}},
            "'squeeze' is unknown; allowed: names of layers and the roles depthwise, other, se, "
            "ternary",
        ),
        ({"sparsity": {"se": 1.5}}, "sparsity of 'se' must be a share from 0 to 1, not 1.5"),
        (
            {"sparsity": {"se": float("nan")}},
            "sparsity of 'se' must be a share from 0 to 1, not nan",
        ),
        ({"input_shape": (32, 32)}, r"input_shape must be .* not \(32, 32\)"),
        ({"input_shape": (3, 0, 32)}, "positive integers"),
        ({"on_unknown": "skip"}, "'skip' is unknown; allowed: raise, list"),
        ({"quantization": "ternary"}, "no ternary weights to read zeros from"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        micronet_score(msunet("v3", width=0.125, quantization=None), **arguments)


def test_the_model_is_left_as_it_was_even_after_an_error():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
    ).train()
    model[2].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    micronet_score(model, (3, 4, 4))
    with pytest.raises(RuntimeError):
        micronet_score(model, (5, 4, 4))
    assert [m.training for m in model.modules()] == [True, True, True, False, False, False]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_empty_containers_and_compiled_models():
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.shortcut = nn.Conv2d(3, 3, 1), nn.Sequential()

        def forward(self, x):
            return self.conv(x) + self.shortcut(x)

    score = micronet_score(Shortcut(), (3, 4, 4))
    assert score.mults == 9 * 16 and score.adds == 6 * 16 + 3 * 16 + 48
    assert micronet_score(as_compiled(Shortcut()), (3, 4, 4)) == score


def test_default_roles():
    roles = layer_roles(torchvision.models.mobilenet_v3_small(weights=None))
    assert {"se", "depthwise", "ternary", "other"} == set(roles.values())
    assert (
        roles["features.0.0"] == "other"
        and roles["features.1.block.1.fc1"] == "se"
        and roles["classifier.0"] == "other"
    )


class Calls(nn.Module):
    "A function of inputs, with parameters."

    def __init__(self, function, **tensors):
        super().__init__()
        self.function = function
        for name, shape in tensors.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, *inputs):
        return self.function(self, *inputs)


def gated(m, x):
    a, b, c = m.w.chunk(3)
    return F.linear(x, a) * F.linear(x, b) + F.linear(x, c)


def normalised_twice(m, x):
    return F.linear(x, m.w / m.w.norm()) + F.linear(x, m.w / m.w.norm())


def in_one_buffer(m, x):
    return F.linear(x, m.w[:32].view(4, 8), m.w[32:36]) * m.w[36]


def table_at_places(m, x):
    return x + m.w[torch.arange(12) % 5]


@pytest.mark.parametrize(
    "function, shape, x, params",
    [
        (gated, (12, 8), (1, 8), 96),
        (normalised_twice, (4, 8), (1, 8), 32),
        (in_one_buffer, (40,), (1, 8), 37),
        (table_at_places, (5, 3), (1, 12, 3), 15),
        (lambda m, x: torch.matmul(x, m.w), (3, 8, 5), (5, 3, 6, 8), 120),
        (lambda m, x: m.w.expand(len(x), -1, -1) @ x, (1, 4, 8), (5, 8, 6), 32),
        (lambda m, x: x.masked_fill(m.w > 0, 0.0), (64, 64), (1, 64, 64), 64 * 64 / 32),
    ],
)
def test_a_stored_number_is_known_by_its_bytes(function, shape, x, params):
    assert micronet_score(Calls(function, w=shape), inputs=torch.zeros(x)).params == params


def test_a_decoder_layer_stores_each_of_its_parameters():
    layer = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)
    two = torch.zeros(1, 5, 16), torch.zeros(1, 7, 16)
    assert micronet_score(layer, inputs=two).params == sum(p.numel() for p in layer.parameters())


def test_a_computed_kernel_is_not_stored():
    def dynamic(m, x):
        return F.conv2d(x, F.linear(x.mean((2, 3)), m.w).view(4, 4, 3, 3))

    score = micronet_score(Calls(dynamic, w=(144, 4)), (4, 6, 6))
    assert score.params == 576 and score.mults >= 36 * 64 + 576
    images = torch.randn(1, 8, 6, 6), torch.randn(1, 8, 22, 22)
    assert micronet_score(Calls(lambda m, k, x: F.conv2d(x, k)), inputs=images).params == 0


def test_one_group_is_a_layer_norm():
    x = torch.zeros(2, 4, 3, 3)
    counts = {}
    for norm in (nn.GroupNorm(1, 4), nn.LayerNorm([4, 3, 3]), nn.GroupNorm(2, 4)):
        score = micronet_score(norm, inputs=x)
        counts[norm] = score.mults, score.adds
    assert list(counts.values()) == [(111, 143), (111, 143), (114, 142)]
    instance = micronet_score(nn.InstanceNorm2d(4), inputs=x)
    assert (instance.mults, instance.adds) == (2 * 36 + 3 * 4, 3 * 36 - 4)


def test_a_bias_before_a_folded_norm_goes_into_it():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    score, folded = micronet_score(net, (3, 8, 8)), micronet_score(deploy(net, 32), (3, 8, 8))
    assert (score.params, score.flops) == (folded.params, folded.flops) == (224, 15840)


def test_recurrent_cells_keep_their_recurrent_matrix():
    cell = nn.LSTMCell(8, 16)
    score = micronet_score(cell, inputs=torch.zeros(1, 8))
    assert score.params == sum(p.numel() for p in cell.parameters()) and not score.unused
    assert score.mults >= 4 * 16 * (8 + 16)


def test_a_layer_of_zeros_is_dense_and_named():
    net = nn.Sequential(nn.Linear(8, 4))
    nn.init.zeros_(net[0].weight)
    score = micronet_score(net, inputs=torch.zeros(1, 8))
    assert score.params == 36 and score.empty == {"0": True}
    assert "ALL ZERO, counted as dense; sparsity={name: 1.0} counts the zeros: 0" in str(score)
    assert micronet_score(net, inputs=torch.zeros(1, 8), sparsity={"0": 1.0}).params == 5


def test_a_weight_that_its_parent_reads_is_counted_as_its_layer_stores_it():
    model = Calls(lambda m, x: F.linear(x, m.qkv.weight))
    model.qkv = nn.Linear(8, 16, bias=False)
    own = nn.Sequential(model.qkv)
    convert_ternary_(model, lambda name, module: True)
    x = torch.zeros(1, 8)
    assert micronet_score(model, inputs=x).params == micronet_score(own, inputs=x).params


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(8, 4)

    def forward(self, *, x, mask=None):
        return self.f(x)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_every_context_gives_a_number():
    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval(), torch.zeros(1, 3, 8, 8)
    right = micronet_score(net, (3, 8, 8))
    with torch.inference_mode():
        assert micronet_score(net, (3, 8, 8)) == right
        made = torch.zeros(1, 3, 8, 8)
        assert micronet_score(net, inputs=made) == micronet_score(net, inputs=x) == right
    assert micronet_score(nn.Conv2d(3, 4, 1, device="meta"), (3, 8, 8)).params == 16
    assert micronet_score(Named(), inputs={"x": torch.zeros(1, 8)}).params == 36
    assert micronet_score(nn.Linear(8, 4), inputs=torch.zeros(4, 8)).mults == 32
    exported = torch.export.export(net, (x,)).module()
    assert micronet_score(exported, inputs=x).params == right.params
    scripted = nn.Sequential(net, torch.jit.script(nn.ReLU()))
    assert micronet_score(scripted, (3, 8, 8)).mults == right.mults + 4 * 64


@pytest.mark.parametrize(
    "inputs, message",
    [
        ((), "inputs must hold a tensor"),
        (torch.zeros(0, 8), r"a batch of at least 1 .* not shape \(0, 8\)"),
        (torch.tensor(1.0), r"not shape \(\)"),
        ("image", "inputs must be a tensor, a tuple .* not str"),
    ],
)
def test_inputs_without_images_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        micronet_score(nn.Linear(8, 4), inputs=inputs)


def test_ternary_layers_on_meta_need_a_sparsity():
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False))
    convert_ternary_(net)
    with pytest.raises(ValueError, match="'0' is on the meta device"):
        micronet_score(net, (8, 4, 4))
    assert micronet_score(net, (8, 4, 4), sparsity={"0": 0.5}).params == 64 / 32 + 32 / 32 + 1


def test_rules_of_ones_own_are_taken_and_checked():
    odd = Calls(lambda m, x: torch.special.bessel_j0(x))
    score = micronet_score(odd, (3, 8, 8), rules={"special_bessel_j0": per_value(2, 1)})
    assert (score.mults, score.adds) == (2 * 192, 192)
    with pytest.raises(ValueError, match="must be a function of a costs.Call"):
        micronet_score(odd, (3, 8, 8), rules={"special_bessel_j0": 3})


X4 = torch.zeros(1, 4, 6, 6)


@pytest.mark.parametrize(
    "function, mults",
    [
        (lambda m, x: F.normalize(x, dim=1), (144 + 36) + 36 + 144),
        (lambda m, x: F.glu(x, 1), 3 * 72),
        (lambda m, x: F.adaptive_max_pool2d(x, 1), 144 - 4),
        (lambda m, x: F.interpolate(x, scale_factor=2, mode="bicubic"), 16 * 576),
        (lambda m, x: F.max_pool3d(x[None], 2), 7 * 18),
        (lambda m, x: F.interpolate(x[0], scale_factor=2), 0),
        (lambda m, x: x.std((2, 3)), 144 + 3 * 4),
        (lambda m, x: F.grid_sample(x, torch.zeros(1, 3, 3, 2), align_corners=False), 8 * 9 + 144),
        (lambda m, x: F.celu(x), 3 * 144),
    ],
)
def test_operations_of_common_networks_have_rules(function, mults):
    assert micronet_score(Calls(function), inputs=X4).mults == mults


def test_attention_with_a_mask_and_wider_values_is_counted():
    q = torch.zeros(1, 2, 6, 4)

    def attend(m, q):
        return F.scaled_dot_product_attention(q, q, torch.cat([q, q], -1), attn_mask=m.mask)

    score = micronet_score(Calls(attend, mask=(1, 2, 6, 6)), inputs=q)
    assert score.params == 72 and score.mults >= 72 * 4 + 96 * 6
