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


DADA_FORM = """
import torch
NOTE = "not a policy"
FIRST = long_name_of_it = [[('Rotate', 0.5, 0.5), ('Invert', 0.25, 0.5)]]
SECOND: list = [[('Color', 0.1, 0.9)]]
# THIRD = [[('Color', 0.1, 0.9)]]
"""
FAST_FORM = """
from collections import defaultdict


def found():
    "Policies."
    fold_0 = [[('Rotate', 0.5, 0.5), ('Invert', 0.25, 0.5)]]
    fold_1 = [[["Color", 0.1, 0.9]]]
    return fold_0 + fold_1


@converted
def levels_of_ten():
    return [[('Rotate', 0.5, 0.5)]]


def loops():
    listed = []
    for fold in range(3):
        listed.append(fold)
    return listed


def calls():
    return found() + __import__('os').system('touch executed')
"""


def test_modules_are_read_as_they_are_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "genotype.py"
    path.write_text("\ufeff" + DADA_FORM, encoding="utf-8")
    for name in ("FIRST", "long_name_of_it"):
        assert read_sub_policies(path, name) == [[("Rotate", 0.5, 0.5), ("Invert", 0.25, 0.5)]]
    assert rival("dada", CIFAR, file=path, name="SECOND").layers == 4
    for name, words in (
        (None, "must be one of its policies, not None; allowed: FIRST, SECOND"),
        ("THIRD", "'THIRD' is unknown; allowed: FIRST, SECOND"),
        ("NOTE", "list of sub-policies"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            read_sub_policies(path, name)
        assert "genotype.py" in str(error.value)
    path.write_text(FAST_FORM)
    assert len(read_sub_policies(path)) == len(read_sub_policies(path, "found")) == 2
    for name, words in (
        ("levels_of_ten", "line 13: a decorator changes what it returns"),
        ("loops", "line 19: For would have to be executed"),
        ("calls", "neither a literal nor a sum"),
    ):
        with pytest.raises(ValueError, match=words):
            read_sub_policies(path, name)
    assert not (tmp_path / "executed").exists()


def test_names_of_mappings_and_what_grows_without_end(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"a": PUBLISHED_FORM, "b": [[["Invert", 1, 0]]]}))
    assert read_sub_policies(tmp_path / "p.json", "b") == [[("Invert", 1.0, 0.0)]]
    with pytest.raises(ValueError, match="allowed: a, b"):
        read_sub_policies(tmp_path / "p.json")
    doubling = "a = [[('Invert', 1, 0)]]\n" + "a = a + a\n" * 60
    (tmp_path / "p.py").write_text(doubling)
    with pytest.raises(ValueError, match="neither a literal nor a sum"):
        read_sub_policies(tmp_path / "p.py", "a")
    (tmp_path / "p.json").write_text(json.dumps(PUBLISHED_FORM))
    with pytest.raises(ValueError, match="name must be None for a single list, not 'a'"):
        read_sub_policies(tmp_path / "p.json", "a")
    (tmp_path / "p.npz").write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(ValueError, match="p.npz is no text of sub-policies; DeepAA's own .npz"):
        read_sub_policies(tmp_path / "p.npz")


@pytest.mark.parametrize(
    "method, cifar, imagenet",
    [
        ("dada", "Crop Flip Rotate Cutout", "Crop Flip Rotate"),
        ("faster_aa", "Crop Flip Rotate Cutout", "Crop Flip Rotate"),
        ("fast_aa", "Rotate Crop Flip Cutout", "Rotate Crop Flip"),
        ("own", "Rotate Crop Flip Cutout", "Rotate Crop Flip"),
    ],
)
def test_defaults_stand_where_the_release_has_them(method, cifar, imagenet):
    def order(space, **more):
        mine = policy_from_list([[("Rotate", 0.5, 0.75)]], space, method, **more)
        return " ".join(mine.space[layer[0][0]].name for layer in mine.choices[0])

    assert order(CIFAR) == cifar and order(IMAGENET) == imagenet
    assert order(CIFAR, before=("Crop", "Flip")) == "Crop Flip Rotate Cutout"
    assert order(CIFAR, before=()) == "Rotate Crop Flip Cutout"
    assert order(CIFAR, defaults=False) == "Rotate"
    with pytest.raises(ValueError, match=r"before must name .* Crop, Flip, not \['Cutout'\]"):
        order(IMAGENET, before=("Cutout",))
