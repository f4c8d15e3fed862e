"Properties and faults of effdl_nb.msunet.network that its notebook does not show."

import copy
import json

import pytest
import torch
from torch import nn

from effdl_nb.msunet.conversion import (
    convert_ternary_,
    freeze_ternary_,
    latent_state_dict,
    ternary_layers,
    zero_fraction,
)
from effdl_nb.msunet.network import (
    VARIANTS,
    MSUNet,
    SplitConv2d,
    architecture_of,
    built_from,
    configuration_table,
    msunet,
    scaled,
    split_channels,
    variant_of,
)

SMALL = {"width": 0.125, "num_classes": 10}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "variant, recipe, count",
    [
        ("v0", "released", 1_545_380),
        ("v2", "released", 1_545_380),
        ("v3", "released", 1_208_300),
        ("v3", "thesis", 1_545_380),
    ],
)
def test_parameter_counts(variant, recipe, count):
    model = msunet(variant, recipe=recipe)
    assert parameters(model) == count
    layers = list(ternary_layers(model))
    assert len(layers) == 18 and sum(m.weight.numel() for _, m in layers) == (
        811_008 if count == 1_208_300 else 1_052_672
    )


def test_ten_classes_and_a_quarter_of_the_width():
    assert parameters(msunet("v3", width=0.25)) == 95_516
    assert parameters(msunet("v3")) - parameters(msunet("v3", num_classes=10)) == 90 * 257


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"variant": "v4"}, "variant 'v4' is unknown; allowed: v0, v1, v2, v3"),
        ({"recipe": "paper"}, "recipe 'paper' is unknown; allowed: thesis, released"),
        ({"quantization": "int8"}, "'int8' is unknown; allowed: ternary, binary, None"),
        ({"width": 0.0}, "width must be a finite number above 0, not 0.0"),
        ({"width": float("nan")}, "width must be a finite number above 0, not nan"),
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
        ({"alpha": -1.0}, "alpha must be a finite number from 0, not -1.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        msunet(**({"width": 0.125} | arguments))


@pytest.mark.parametrize("size", [(32, 32), (8, 20), (4, 4), (33, 47)])
def test_any_image_size_from_four(size):
    model = msunet("v3", **SMALL).eval()
    x = torch.randn(3, 3, *size)
    assert model(x).shape == (3, 10) and model.features(x).shape == (3, scaled(256, 0.125))
    assert torch.equal(model(x), model.classifier(model.features(x)))


def test_images_of_a_batch_do_not_meet_in_evaluation():
    model = msunet("v3", **SMALL).eval()
    x = torch.randn(4, 3, 16, 16)
    assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-5)


@pytest.mark.parametrize(
    "channels, parts, sizes",
    [(320, 3, [108, 106, 106]), (384, 3, [128] * 3), (7, 2, [4, 3]), (5, 1, [5])],
)
def test_channel_splits(channels, parts, sizes):
    assert split_channels(channels, parts) == sizes


@pytest.mark.parametrize("parts", [0, 9])
def test_impossible_splits_are_refused(parts):
    with pytest.raises(
        ValueError, match=f"parts must be 1 to 8, the number of channels, not {parts}"
    ):
        split_channels(8, parts)


def test_a_split_layer_keeps_its_parts_apart():
    layer = SplitConv2d(6, 4, (1, 3))
    x = torch.randn(1, 6, 5, 5)
    y = layer(x)
    x[:, 3:] = 0
    assert torch.equal(layer(x)[:, :2], y[:, :2]) and not torch.equal(layer(x)[:, 2:], y[:, 2:])


def test_no_bias_but_in_squeeze_excitation_and_classifier():
    model = msunet("v0", quantization=None, **SMALL)
    biased = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None
    }
    assert biased == {name for name, role in model.layer_roles().items() if role == "se"} | {
        "classifier"
    }
    assert all(
        m.eps == 1e-5 and m.momentum == 0.1
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
    )


def test_initialisation_is_fan_out():
    torch.manual_seed(0)
    model = MSUNet()
    weight = model.get_submodule("stages.3.1.depthwise.0.parts.0").weight
    assert abs(weight.std() / (2 / (9 * weight.shape[0])) ** 0.5 - 1) < 0.05
    assert model.classifier.weight.abs().max() <= 0.1 and not model.classifier.bias.any()


def test_roles_count_and_default_filter_agree():
    model = msunet("v3", quantization=None, width=0.125)
    roles = model.layer_roles()
    report = convert_ternary_(model)
    assert {name for name, *_ in report.converted} == {
        name for name, role in roles.items() if role == "ternary"
    }
    assert model.layer_roles() == roles, "conversion must not change roles"
    assert [
        list(roles.values()).count(role) for role in ("ternary", "se", "depthwise", "other")
    ] == [18, 8, 10, 4]


def test_quantisations_and_checkpoints():
    torch.manual_seed(0)
    float_net = msunet("v3", quantization=None, **SMALL)
    for quantization, zeros in (("binary", 0.0), ("ternary", 0.5)):
        net = msunet("v3", quantization=quantization, **SMALL)
        net.load_state_dict(float_net.state_dict())
        assert abs(zero_fraction(net) - zeros) < 0.05
        float_net.load_state_dict(latent_state_dict(net))
        twin = copy.deepcopy(net)
        freeze_ternary_(twin)
        x = torch.randn(2, 3, 8, 8)
        assert torch.equal(twin.eval()(x), net.eval()(x))


def test_channels_last_gives_the_same_logits():
    model = msunet("v3", **SMALL).eval()
    x = torch.randn(2, 3, 16, 16)
    expected = model(x)
    turned = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.allclose(turned, expected, atol=1e-4)


def test_both_recipes_define_all_variants():
    for recipe, variants in VARIANTS.items():
        assert list(variants) == ["v0", "v1", "v2", "v3"] and variant_of("v0", recipe).ternary
        assert [row["Model"] for row in configuration_table(recipe)] == [
            "MSUNet-V0",
            "MSUNet-V1",
            "MSUNet-V2",
            "MSUNet-V3",
        ]
    with pytest.raises(ValueError, match="recipe 'x' is unknown"):
        configuration_table("x")


def shapes(model):
    "Shapes of the weights."
    return {name: p.shape for name, p in model.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize(
    "variant, width, recipe",
    [("v3", 0.3, "released"), ("v0", 0.05, "thesis"), ("v3", 1.37, "thesis")],
)
def test_the_constructor_is_found_from_the_shapes(variant, width, recipe):
    model = msunet(variant, width=width, num_classes=7, recipe=recipe)
    record = architecture_of(model)
    rebuilt = built_from(json.loads(json.dumps(record)), "meta")
    assert shapes(rebuilt) == shapes(model)
    model.classifier = nn.Linear(model.classifier.in_features, 7, bias=False)
    model.head[0] = nn.Conv2d(4, 4, 3)
    assert architecture_of(model) is None


@pytest.mark.parametrize(
    "change",
    [
        {"name": "os.system"},
        {"width": 1e9},
        {"width": 1},
        {"expansions": [1] * 3},
        {"num_classes": 0},
    ],
)
def test_records_that_no_network_has_are_refused(change):
    with pytest.raises(ValueError, match="is no network"):
        built_from(architecture_of(msunet("v3", **SMALL)) | change)
