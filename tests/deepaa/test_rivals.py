"Rivals: every row of the tables as one object, and what it needs."

import math

import numpy as np
import pytest
import torch
from PIL import Image

from effdl_nb.deepaa.defaults import deepaa_simple
from effdl_nb.deepaa.policy import (
    Augmented,
    Policy,
    PolicyDraw,
    operation_probabilities,
    top_operations,
    uniform_policy,
)
from effdl_nb.deepaa.policy_file import load_policy, save_policy
from effdl_nb.deepaa.published import (
    auto_augment,
)
from effdl_nb.deepaa.rivals import RIVALS, operation_sequences, rival, sequence_entropy
from effdl_nb.deepaa.space import SearchSpace, Transform, cifar_space, imagenet_space, space_of

CIFAR, IMAGENET = cifar_space(), imagenet_space()
FREE = ("none", "baseline", "aa", "ra", "ua", "ta_ra", "ta_wide", "deep_ta")


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
    assert [made(row).layers for row in ("none", "deep_ta")] == [1, 1] and rival(
        "deep_ta", layers=4
    ).space == CIFAR


@pytest.mark.parametrize("row", ["aa", "ra", "ua", "ta_ra", "ta_wide", "fast_aa"])
def test_the_default_cutout_has_the_spaces_side(row, tmp_path):
    (tmp_path / "p.json").write_text('[[["Cutout", 0.5, 1.0]]]')
    mine = rival(row, CIFAR, **({"file": tmp_path / "p.json"} if row == "fast_aa" else {}))
    last = [mine.space[n] for n, p in enumerate(mine.probabilities[-1].tolist()) if p > 0]
    assert last == [Transform("Cutout")]
    with pytest.raises(ValueError, match="lacks the default operation Crop"):
        deepaa_simple(uniform_policy(space_of("few", {"Identity": None, "Flip": None})))


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
        white, PolicyDraw(only, torch.rand(200, 4, 2, dtype=torch.float64, generator=seeded()))
    )
    colours = {
        tuple(c) for c in torch.unique(out.permute(0, 2, 3, 1).reshape(-1, 3), dim=0).tolist()
    }
    assert colours == {(0, 0, 0), (255, 255, 255), (125, 123, 114)}


PUBLISHED_FORM = [
    [["ShearX", 0.5, 0.75], ["Invert", 0.2, 0.1]],
    [["Cutout", 1.0, 0.5], ["Solarize", 0.3, 1.0], ["Rotate", 1, 0.5]],
]


def test_rows_say_what_they_need():
    with pytest.raises(ValueError, match="allowed: none, baseline"):
        rival("nobody")
    for row in ("fast_aa", "faster_aa", "dada"):
        with pytest.raises(ValueError, match="needs file="):
            rival(row)
    for row in ("deepaa", "deepaa_simple", "pba", "adv_aa"):
        with pytest.raises(ValueError, match="needs policy="):
            rival(row)
    with pytest.raises(
        ValueError, match="policy 'tiny' is unknown; allowed: cifar10, imagenet, svhn"
    ):
        auto_augment(CIFAR, "tiny")
    searched = uniform_policy(CIFAR, 3)
    assert (
        rival("deepaa", policy=searched) is searched
        and rival("deepaa_simple", policy=searched).layers == 4
    )
    assert set(FREE) | {
        "deepaa",
        "deepaa_simple",
        "fast_aa",
        "faster_aa",
        "dada",
        "pba",
        "adv_aa",
    } == set(RIVALS)
    assert torch.equal(deepaa_simple(searched).probabilities[0], searched.probabilities[0])


def test_too_many_sequences_are_not_gone_through():
    with pytest.raises(ValueError, match="fewer layers"):
        operation_sequences(rival("deep_ta", layers=4), most=1000)
    assert sequence_entropy(
        Policy([[0.5, 0.5]], SearchSpace("two", (Transform("Invert"), Transform("Flip"))))
    ) == pytest.approx(math.log(2))
