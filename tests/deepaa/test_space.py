"The search space: its hashes, its counts, and what cannot be one."

import json

import pytest

from effdl_nb.deepaa.space import (
    SearchSpace,
    Transform,
    cifar_space,
    imagenet_space,
    space_from_dict,
    space_of,
    space_to_dict,
    wide_space,
)

SPACE = cifar_space()


def test_the_spaces_and_their_hashes():
    imagenet = imagenet_space()
    assert (
        len(imagenet) == 139
        and imagenet.distinct() == 130
        and imagenet.cutout == 60
        and imagenet.crop == "resized"
    )
    hashes = [SPACE.hash(), imagenet.hash(), wide_space().hash()]
    assert hashes == ["83be49c788ada13c", "74199db8b82be92d", "ade1cda8d4c869f3"], (
        "files name them: they must never change"
    )
    for space in (
        SPACE,
        imagenet,
        space_of("own", {"Rotate": [5], "Crop": None}, crop_fill=(0, 0, 0)),
    ):
        assert space_from_dict(json.loads(json.dumps(space_to_dict(space)))) == space
    with pytest.raises(ValueError, match="keys"):
        space_from_dict({"name": "x"})


def test_the_space_of_table_3_1():
    assert len(SPACE) == 139 and SPACE.distinct() == 130 and len(SPACE.operations()) == 18
    assert (
        SPACE[1] == Transform("ShearX", -0.3, 0)
        and SPACE[138].name == "Crop"
        and SPACE[138].magnitude is None
    )
    assert SPACE.indices("Posterize")[-1] - SPACE.indices("Posterize")[0] == 11
    with pytest.raises(
        ValueError, match="operation 'Warp' is unknown in space 'cifar'; allowed: Identity"
    ):
        SPACE.indices("Warp")


def test_the_hash_sees_what_shapes_a_pixel_and_not_the_name():
    same = SearchSpace("another name", SPACE.transforms)
    assert same.hash() == SPACE.hash()
    changed = [
        SearchSpace("s", SPACE.transforms, fill=(0, 0, 0)),
        SearchSpace("s", SPACE.transforms, cutout=8),
    ]
    changed.append(SearchSpace("s", SPACE.transforms[::-1]))
    assert len({space.hash() for space in changed} | {SPACE.hash()}) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"pad": -1},
        {"cutout": 0},
        {"fill": (0, 0)},
        {"fill": (0, 0, 300)},
        {"translate": "miles"},
        {"crop": "no"},
        {"crop_fill": (0, 0, -1)},
    ],
)
def test_a_space_checks_its_constants(arguments):
    with pytest.raises(ValueError):
        SearchSpace("bad", SPACE.transforms, **arguments)
