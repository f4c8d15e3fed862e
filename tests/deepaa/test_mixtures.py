"Mixtures: coupled layers, and files of sub-policies that others found."

import json
import math

import pytest
import torch

from effdl_nb.deepaa.mixtures import SubPolicies, policy_from_list, read_sub_policies
from effdl_nb.deepaa.policy_file import load_policy, save_policy
from effdl_nb.deepaa.rivals import operation_sequences, rival, sequence_entropy
from effdl_nb.deepaa.space import cifar_space, imagenet_space, space_of

CIFAR, IMAGENET = cifar_space(), imagenet_space()


def images(n=20, height=32, width=32):
    coarse = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").to(
        torch.uint8
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


PUBLISHED_FORM = [
    [["ShearX", 0.5, 0.75], ["Invert", 0.2, 0.1]],
    [["Cutout", 1.0, 0.5], ["Solarize", 0.3, 1.0], ["Rotate", 1, 0.5]],
]


def test_a_mixture_couples_its_layers():
    space = space_of("two", {"Identity": None, "Invert": None, "Flip": None})
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
def test_mixtures_that_are_none_raise(choices, weights):
    with pytest.raises(ValueError):
        SubPolicies(choices, space_of("one", {"Identity": None, "Invert": None}), weights=weights)


def test_a_transform_of_probability_zero_is_never_drawn():
    space = space_of("one", {"Identity": None, "Invert": None, "Flip": None})
    mine = SubPolicies([[[(1, 0.0), (0, 0.5), (2, 0.5), (1, 0.0)]]], space)
    assert set(mine.sample(3000, seeded()).indices.flatten().tolist()) == {0, 2}


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
        ("[[]]", r"sub-policy 0 must have \[operation, probability, level\]"),
        ('"Rotate"', "list of sub-policies"),
        ("[[['Blur', 0.5, 0.5]]]", "operation 'Blur' is unknown; allowed: ShearX.*Equalize"),
        ("[[['Flip', 0.5, 0.5]]]", "operation 'Flip' is unknown"),
        ("[[['Rotate', 0.5]]]", r"must hold \[operation, probability, level\]"),
        ("[['Rotate', 0.5, 0.5]]", r"must hold \[operation, probability, level\]"),
        ("[[['Rotate', 1.5, 0.5]]]", "0..1"),
        ("[[['Rotate', 0.5, 7]]]", "0..1"),
        ("[[['Rotate', '0.5', 0.5]]]", "0..1"),
        ('[[["Rotate", NaN, 0.5]]]', "0..1"),
        ("[[['Rotate', True, 0.5]]]", "0..1"),
        ("[[[['Rotate'], 0.5, 0.5]]]", "is unknown"),
    ],
)
def test_files_that_hold_something_else_raise(tmp_path, text, match):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=match) as error:
        read_sub_policies(tmp_path / "p.txt")
    assert "p.txt" in str(error.value)


def test_found_policies_take_a_list_as_well():
    assert policy_from_list(PUBLISHED_FORM, IMAGENET, "mine").layers == 5
