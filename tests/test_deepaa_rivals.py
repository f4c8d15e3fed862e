"""Rivals: what they sample, torchvision's pixels, files from others, and what must be refused."""

import itertools
import json
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from effdl_nb.deepaa.operations import SearchSpace, Transform
from effdl_nb.deepaa.policy import (
    Augmented,
    Draw,
    Policy,
    load_policy,
    operation_probabilities,
    save_policy,
    top_operations,
    uniform_policy,
)
from effdl_nb.deepaa.rivals import (
    ROWS,
    ContinuousPolicy,
    SubPolicies,
    auto_augment,
    deepaa_simple,
    found_policy,
    from_torchvision,
    operation_sequences,
    rand_augment_policy,
    read_sub_policies,
    rival,
    sequence_entropy,
    trivial_augment_policy,
    uniform_augment,
)

CIFAR, IMAGENET = SearchSpace.cifar(), SearchSpace.imagenet()
FREE = ("none", "baseline", "aa", "ra", "ua", "ta_ra", "ta_wide", "deepta")


def images(n=20, height=32, width=32):
    coarse = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").to(
        torch.uint8
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(row, space=CIFAR):
    return rival(row, space)


@pytest.mark.parametrize("space", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
@pytest.mark.parametrize("row", FREE)
def test_every_row_has_the_interface_of_a_policy(row, space, tmp_path):
    mine, batch = made(row, space), images(12, 64, 70)
    whole, rng = mine(batch, seeded()), seeded()
    assert whole.shape == batch.shape and whole.dtype == torch.uint8
    assert torch.equal(torch.cat([mine(part, rng) for part in batch.split([1, 4, 7])]), whole)
    assert torch.equal(mine.apply(batch, mine.sample(12, seeded())), whole)
    keyed = mine.apply(batch, mine.sample_at(range(12), seed=4))
    assert torch.equal(
        torch.stack([Augmented(batch, mine, seed=4)[k] for k in (0, 11, 5)]), keyed[[0, 11, 5]]
    )
    assert (mine.probabilities.sum(1) - 1).abs().max() < 1e-12 and mine.probabilities.shape == (
        mine.layers,
        len(mine.space),
    )
    assert len(top_operations(mine)) == mine.layers and mine.provenance["method"] and repr(mine)
    save_policy(mine, tmp_path / "r.json")
    back = load_policy(tmp_path / "r.json")
    assert (
        type(back) is type(mine)
        and back.provenance == mine.provenance
        and torch.equal(back(batch, seeded()), whole)
    )
    assert mine(batch[:0], seeded()).shape == (0, 3, 64, 70)
    picture = Image.fromarray(batch[0].permute(1, 2, 0).contiguous().numpy())
    torch.manual_seed(2)
    one = mine.as_transform()(picture)
    torch.manual_seed(2)
    assert np.array_equal(np.asarray(one), mine(batch[:1])[0].permute(1, 2, 0).numpy())


def test_defaults_follow_the_protocols():
    def best(mine):
        return [max(layer, key=layer.get) for layer in operation_probabilities(mine)]

    assert best(made("aa"))[2:] == ["Crop", "Flip", "Cutout"] and best(made("aa", IMAGENET))[
        2:
    ] == ["Crop", "Flip"]
    assert best(made("ta_wide"))[1:] == ["Crop", "Flip", "Cutout"] == best(made("ta_ra"))[
        1:
    ] and best(made("baseline")) == ["Crop", "Flip"]
    assert made("ra").layers == 5 and rival("ra", CIFAR, layers=3, defaults=False).layers == 3
    assert (
        made("ta_wide").space.crop_fill == (0, 0, 0)
        and made("aa", IMAGENET).space.crop == "resized"
    )
    assert [made(row).layers for row in ("none", "deepta")] == [1, 1] and rival(
        "deepta", layers=4
    ).space == CIFAR


@pytest.mark.parametrize("row", ["aa", "ra", "ua", "ta_ra", "ta_wide", "fast_aa"])
def test_the_default_cutout_has_the_spaces_side(row, tmp_path):
    (tmp_path / "p.json").write_text('[[["Cutout", 0.5, 1.0]]]')
    mine = rival(row, CIFAR, **({"file": tmp_path / "p.json"} if row == "fast_aa" else {}))
    last = [mine.space[n] for n, p in enumerate(mine.probabilities[-1].tolist()) if p > 0]
    assert last == [Transform("Cutout")]
    with pytest.raises(ValueError, match="lacks the default operation Crop"):
        deepaa_simple(uniform_policy(SearchSpace.of("few", {"Identity": None, "Flip": None})))


def test_the_border_of_a_rivals_crop_is_black_and_of_its_cutout_grey():
    white, mine = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8), rival("ta_wide", CIFAR)
    names = [mine.space[n].name for n in range(len(mine.space))]
    only = torch.tensor(
        [
            [
                names.index("Crop"),
                names.index("Identity"),
                names.index("Identity"),
                names.index("Cutout"),
            ]
        ]
    ).expand(200, 4)
    out = mine.apply(
        white, Draw(only, torch.rand(200, 4, 2, dtype=torch.float64, generator=seeded()))
    )
    colours = {
        tuple(c) for c in torch.unique(out.permute(0, 2, 3, 1).reshape(-1, 3), dim=0).tolist()
    }
    assert colours == {(0, 0, 0), (255, 255, 255), (125, 123, 114)}


@pytest.mark.parametrize("size", [(32, 32), (40, 61)])
def test_autoaugment_is_torchvisions_with_its_own_draws(size):
    autoaugment = pytest.importorskip("torchvision.transforms.autoaugment")
    picture_batch = images(1, *size)
    picture = Image.fromarray(picture_batch[0].permute(1, 2, 0).contiguous().numpy())
    for policy in ("cifar10", "imagenet"):
        mine, rng = auto_augment(CIFAR, policy, defaults=False), seeded(1)
        theirs = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(policy))
        for _ in range(40):
            sub, probabilities = (
                int(torch.randint(25, (1,), generator=rng)),
                torch.rand(2, generator=rng),
            )
            signs = torch.randint(2, (2,), generator=rng)
            with patch.object(
                theirs, "get_params", lambda _, drawn=(sub, probabilities, signs): drawn
            ):
                want = np.asarray(theirs(picture))
            row = []
            for layer, u, sign, (_, p, _) in zip(
                mine.choices[sub], probabilities, signs, theirs.policies[sub], strict=True
            ):
                changing = [n for n, _ in layer if mine.space[n].name != "Identity"]
                row.append(changing[0 if sign or len(changing) == 1 else 1] if u <= p else 0)
            draw = Draw(torch.tensor([row]), torch.zeros(1, 2, 2, dtype=torch.float64))
            assert np.array_equal(
                mine.apply(picture_batch, draw)[0].permute(1, 2, 0).numpy(), want
            ), (policy, sub, row)


def test_every_randaugment_magnitude_has_torchvisions_pixels():
    autoaugment = pytest.importorskip("torchvision.transforms.autoaugment")
    batch = images(1, 33, 47)
    picture = Image.fromarray(batch[0].permute(1, 2, 0).contiguous().numpy())
    table = autoaugment.RandAugment()._augmentation_space(31, (33, 47))
    for bin_ in (0, 9, 17, 30):
        mine = rand_augment_policy(CIFAR, 1, bin_, defaults=False)
        at = {t: n for n, t in enumerate(mine.space.transforms)}
        for (name, (magnitudes, signed)), sign in itertools.product(table.items(), (1, -1)):
            if sign < 0 and not signed:
                continue
            m = sign * magnitudes[bin_].item() if magnitudes.ndim else 0.0
            want = np.asarray(
                autoaugment._apply_op(
                    picture, name, m, interpolation=autoaugment.InterpolationMode.NEAREST, fill=None
                )
            )
            one = autoaugment.RandAugment()._augmentation_space(31, (1, 1))[name][0]
            t = from_torchvision(
                name, sign * one[bin_].double().item() if magnitudes.ndim else None
            )
            draw = Draw(torch.tensor([[at[t]]]), torch.zeros(1, 1, 2, dtype=torch.float64))
            assert np.array_equal(mine.apply(batch, draw)[0].permute(1, 2, 0).numpy(), want), (
                name,
                bin_,
                sign,
            )


def test_trivial_augment_is_uniform_over_its_operations():
    for wide in (False, True):
        layer = operation_probabilities(trivial_augment_policy(CIFAR, wide, defaults=False))[0]
        assert (
            sorted(layer.values(), reverse=True)[:14] == pytest.approx([1 / 14] * 14)
            and sum(p > 0 for p in layer.values()) == 14
        )
    with pytest.raises(ValueError, match="0..30"):
        rand_augment_policy(CIFAR, magnitude=31)


def test_a_mixture_couples_its_layers():
    space = SearchSpace.of("two", {"Identity": None, "Invert": None, "Flip": None})
    mine = SubPolicies(
        [[[(1, 1.0)], [(1, 1.0)]], [[(0, 0.25), (2, 0.75)], [(0, 1.0)]]],
        space,
        weights=[0.25, 0.75],
    )
    drawn = mine.sample(40_000, seeded()).indices
    assert ((drawn[:, 0] == 1) == (drawn[:, 1] == 1)).all(), "Invert comes twice or not at all"
    shares = [(drawn[:, 0] == n).double().mean().item() for n in range(3)]
    assert shares == pytest.approx([3 / 16, 1 / 4, 9 / 16], abs=0.01)
    assert mine.probabilities[0].tolist() == pytest.approx([3 / 16, 1 / 4, 9 / 16])
    assert operation_sequences(mine) == pytest.approx(
        {("Invert", "Invert"): 0.25, ("Identity", "Identity"): 3 / 16, ("Flip", "Identity"): 9 / 16}
    )
    assert 0 < sequence_entropy(mine) < math.log(3)


@pytest.mark.parametrize(
    "choices, weights",
    [
        ([], None),
        ([[]], None),
        ([[[(0, 1.0)]], [[(0, 1.0)], [(0, 1.0)]]], None),
        ([[[(0, 0.5)]]], None),
        ([[[(9, 1.0)]]], None),
        ([[[(0, 1.0)]]], [0.5]),
        ([[[(0, 1.0)]]], [0.5, 0.5]),
        ([[[(0, -0.5), (1, 1.5)]]], None),
        ([[[(0, math.nan)]]], None),
    ],
)
def test_mixtures_that_are_none_are_refused(choices, weights):
    with pytest.raises(ValueError):
        SubPolicies(
            choices, SearchSpace.of("one", {"Identity": None, "Invert": None}), weights=weights
        )


def test_a_transform_of_probability_zero_is_never_drawn():
    space = SearchSpace.of("one", {"Identity": None, "Invert": None, "Flip": None})
    mine = SubPolicies([[[(1, 0.0), (0, 0.5), (2, 0.5), (1, 0.0)]]], space)
    assert set(mine.sample(3000, seeded()).indices.flatten().tolist()) == {0, 2}


def test_uniform_augment_magnitudes_fill_their_ranges():
    mine = uniform_augment(CIFAR, defaults=False)
    draw = mine.sample(20_000, seeded())
    for name, low, high in (
        ("ShearX", -0.3, 0.3),
        ("Solarize", 0, 256),
        ("Cutout", 0, 0.2),
        ("Contrast", 0.1, 1.9),
    ):
        wanted = [
            n for n, t in enumerate(mine.space.transforms) if t.name == name and n in mine.ranges
        ]
        values = draw.magnitudes[torch.isin(draw.indices, torch.tensor(wanted))]
        assert (
            low <= values.min() < low + 0.02 * (high - low)
            and high - 0.02 * (high - low) < values.max() <= high
        )
        assert values.mean() == pytest.approx(
            (low + high) / 2, abs=4 * (high - low) / (12 * len(values)) ** 0.5
        )
    assert torch.isnan(draw.magnitudes[draw.indices == 0]).all()
    assert all(
        t.name in ("Identity", "AutoContrast", "Invert", "Equalize") or t.magnitude is not None
        for t in sum(mine.transforms(draw[:200]), [])
    )


@pytest.mark.parametrize(
    "ranges", [{0: (0.0, 1.0)}, {1: (5.0, -5.0)}, {1: (0.0, math.inf)}, {1: (math.nan, 1.0)}]
)
def test_ranges_that_cannot_work_are_refused(ranges):
    with pytest.raises(ValueError):
        ContinuousPolicy(
            [[0.5, 0.5]], ranges, SearchSpace.of("one", {"Identity": None, "Rotate": [3]})
        )


PUBLISHED_FORM = [
    [["ShearX", 0.5, 0.75], ["Invert", 0.2, 0.1]],
    [["Cutout", 1.0, 0.5], ["Solarize", 0.3, 1.0], ["Rotate", 1, 0.5]],
]


def test_files_of_sub_policies(tmp_path):
    literal = str([[tuple(entry) for entry in sub] for sub in PUBLISHED_FORM])
    for name, text in (
        ("a.json", json.dumps(PUBLISHED_FORM)),
        ("b.py", literal),
        ("c.txt", "\n  " + literal.replace("'", '"') + "\n"),
    ):
        (tmp_path / name).write_text(text)
        mine = rival("fast_aa", CIFAR, file=tmp_path / name)
        assert mine.layers == 6 and len(mine.choices) == 2, (
            "three layers, filled up, and three defaults"
        )
    chances = {str(mine.space[n]): p for n, p in mine.choices[0][0]}
    assert chances == pytest.approx({"ShearX(0.15)": 0.25, "ShearX(-0.15)": 0.25, "Identity": 0.5})
    assert [str(mine.space[n]) for n, _ in mine.choices[1][2]] == ["Rotate(0)"], (
        "no sign where the magnitude is zero"
    )
    assert mine(images(), seeded()).shape == (20, 3, 32, 32)
    save_policy(mine, tmp_path / "saved.json")
    assert torch.equal(
        load_policy(tmp_path / "saved.json")(images(), seeded()), mine(images(), seeded())
    )


@pytest.mark.parametrize(
    "text, match",
    [
        ("__import__('os').system('true')", "neither JSON nor a Python literal"),
        ("[[['Rotate', 0.5, ", "neither"),
        ("", "neither"),
        ("{}", "list of sub-policies"),
        ("[]", "list of sub-policies"),
        ("[[]]", "list of sub-policies"),
        ('"Rotate"', "list of sub-policies"),
        ("[[['Blur', 0.5, 0.5]]]", "unknown operation 'Blur'; allowed: ShearX.*Equalize"),
        ("[[['Flip', 0.5, 0.5]]]", "unknown operation"),
        ("[[['Rotate', 0.5]]]", r"need \[operation, probability, level\]"),
        ("[['Rotate', 0.5, 0.5]]", "need"),
        ("[[['Rotate', 1.5, 0.5]]]", "0..1"),
        ("[[['Rotate', 0.5, 7]]]", "0..1"),
        ("[[['Rotate', '0.5', 0.5]]]", "0..1"),
        ('[[["Rotate", NaN, 0.5]]]', "0..1"),
        ("[[['Rotate', True, 0.5]]]", "0..1"),
        ("[[[['Rotate'], 0.5, 0.5]]]", "unknown operation"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, text, match):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=match) as error:
        read_sub_policies(tmp_path / "p.txt")
    assert "p.txt" in str(error.value)


def test_rows_say_what_they_need():
    with pytest.raises(ValueError, match="allowed: none, baseline"):
        rival("pba")
    for row in ("fast_aa", "faster_aa", "dada"):
        with pytest.raises(ValueError, match="needs file="):
            rival(row)
    for row in ("deepaa", "deepaa_simple"):
        with pytest.raises(ValueError, match="needs policy="):
            rival(row)
    with pytest.raises(ValueError, match="allowed: \\['cifar10', 'imagenet', 'svhn'\\]"):
        auto_augment(CIFAR, "tiny")
    searched = uniform_policy(CIFAR, 3)
    assert (
        rival("deepaa", policy=searched) is searched
        and rival("deepaa_simple", policy=searched).layers == 4
    )
    assert set(FREE) | {"deepaa", "deepaa_simple", "fast_aa", "faster_aa", "dada"} == set(ROWS)
    assert torch.equal(deepaa_simple(searched).probabilities[0], searched.probabilities[0])


def test_too_many_sequences_are_not_gone_through():
    with pytest.raises(ValueError, match="fewer layers"):
        operation_sequences(rival("deepta", layers=4), most=1000)
    assert sequence_entropy(
        Policy([[0.5, 0.5]], SearchSpace("two", (Transform("Invert"), Transform("Flip"))))
    ) == pytest.approx(math.log(2))


def test_found_policies_take_a_list_as_well():
    assert found_policy(PUBLISHED_FORM, IMAGENET, "mine").layers == 5
