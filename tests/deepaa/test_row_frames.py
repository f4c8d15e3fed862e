"What measured rows say: policies through a row, derived values, and what is missing."

import math

import pandas as pd
import pytest
import torch

from effdl_nb.deepaa import row_frames
from effdl_nb.deepaa.policy import Policy
from effdl_nb.deepaa.space import SearchSpace, cifar_space, imagenet_space

CIFAR, IMAGENET = cifar_space(), imagenet_space()


def random_policy(
    layers: int, seed: int = 0, space: SearchSpace = CIFAR, sharp: float = 3.0
) -> Policy:
    logits = torch.randn(
        layers, len(space), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return Policy((sharp * logits).softmax(1), space)


def rounded(policy: Policy, space: str) -> dict:
    return {
        "space": space,
        "probabilities": [[round(p, 6) for p in row] for row in policy.probabilities.tolist()],
    }


def table_cells(**rows) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "row": row,
                "ours": ours,
                "spread": None,
                "n": 1,
                "thesis": thesis,
                "thesis_spread": None,
                "corrected": None,
            }
            for row, (ours, thesis) in rows.items()
        ]
    )


@pytest.mark.parametrize("space,name", [(CIFAR, "cifar"), (IMAGENET, "imagenet")])
@pytest.mark.parametrize("layers", [1, 5])
def test_a_policy_survives_its_row(space, name, layers):
    policy = random_policy(layers, layers, space)
    again = row_frames.policy_from_details(rounded(policy, name))
    assert again.space == space and again.layers == layers
    torch.testing.assert_close(again.probabilities, policy.probabilities, rtol=0, atol=7.1e-5)


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"space": "cifar"},
        {"space": "svhn", "probabilities": [[1.0] + [0.0] * 138]},
        {"space": "cifar", "probabilities": []},
        {"space": "cifar", "probabilities": [[1.0] + [0.0] * 137]},
        {"space": "cifar", "probabilities": [[0.9999] + [0.0] * 138]},
        {"space": "cifar", "probabilities": [[1.5, -0.5] + [0.0] * 137]},
        {"space": "cifar", "probabilities": [[math.nan] * 139]},
        {"space": "cifar", "probabilities": [["much"] * 139]},
        {"space": "cifar", "probabilities": [[1.0], [0.5, 0.5]]},
        {"space": "cifar", "probabilities": 1.0},
    ],
)
def test_what_is_no_rounded_policy_raises(found):
    with pytest.raises(ValueError):
        row_frames.policy_from_details(found)


def test_rows_without_a_policy_have_none():
    policy = rounded(random_policy(2), "cifar")
    rows = [
        {"row": "deepaa", "details": None},
        {"row": "deepaa", "details": {"entropy": []}},
        {"row": "aa", "details": {"policy": policy}},
    ]
    assert row_frames.searched_policy(rows) is None
    assert (
        row_frames.searched_policy([*rows, {"row": "deepaa", "details": {"policy": policy}}]).layers
        == 2
    )


def test_too_few_layers_are_said_and_trainings_compared():
    row = {
        "row": "deepaa",
        "columns": ["cifar10"],
        "seed": 1,
        "settings": {"layers": None, "search": {"layers": 3}},
        "details": {"layers_used": 2, "stopped": "so"},
    }
    assert row_frames.layers_short([row]) == ["deepaa, cifar10, seed 1: 2 of 3 layers (so)"]
    assert (
        row_frames.layers_short(
            [{**row, "settings": {"layers": 2, "search": {"layers": 3}}}, {**row, "details": {}}]
        )
        == []
    )
    one = {"network": "wrn-16-2", "layers": 1, "mirror": True, "train": {"epochs": 13}}
    one |= {"search": {"seed": 0}, "held_out": {"pairs": 2}}
    other = {"network": "wrn-16-2", "layers": 3, "train": {"epochs": 13}}
    assert row_frames.training_differences(one, other) == {}
    other = {**one, "train": {"epochs": 12, "lr": 0.1}}
    differences = {"train.epochs": (13, 12), "train.lr": (None, 0.1)}
    assert row_frames.training_differences(one, other) == differences


def test_depths_need_records_or_nothing():
    found = row_frames.depth_frame({"a": None, "b": []}, {"a": {2: (60.0, 1.0), 0: (50.0, None)}})
    assert found.depth.tolist() == [0, 2] and found.half_width.isna().tolist() == [True, False]
    records = [
        {"depth": 0, "improvement": 0.0, "improvement_deviation": 0.0},
        {"depth": 1, "improvement": 0.1, "improvement_deviation": 0.2},
    ]
    assert row_frames.depth_frame({"a": records}, {}).half_width.isna().all(), (
        "no interval without the number of pairs"
    )
    with pytest.raises(ValueError, match="at least 2"):
        row_frames.depth_frame({"a": records}, {}, pairs=1)


def test_the_simple_method_is_derived_once_and_never_over_a_printed_value():
    labels = {"deepaa": "Deep AutoAugment"}
    absent = row_frames.compared_accuracies(
        table_cells(deepaa=(50.0, 78.3), aa=(49.0, 77.6)), labels
    )
    given = row_frames.compared_accuracies(
        table_cells(deepaa=(50.0, 78.3), deepaa_simple=(48.0, None)), labels
    )
    printed = row_frames.compared_accuracies(
        table_cells(deepaa=(50.0, 78.3), deepaa_simple=(48.0, 78.0)), labels
    )
    part = row_frames.compared_accuracies(
        table_cells(ra=(1.0, 77.6), deepaa=(50.0, 78.3), aa=(49.0, 77.6)).iloc[1:], labels
    )
    assert sorted(part.row) == ["aa", "deepaa", "deepaa_simple"], "a part of a table keeps its rows"
    for lines, value in ((absent, 78.08), (part, 78.08), (given, 78.08), (printed, 78.0)):
        assert lines[lines.row == "deepaa_simple"].thesis.tolist() == [
            value
        ] and lines.derived.sum() == (value == 78.08)
    assert given[given.row == "deepaa_simple"].ours.tolist() == [
        48.0
    ] and absent.label.tolist() == ["Deep AutoAugment", "DeepAA-simple", "aa"]
    assert (
        row_frames.compared_accuracies(table_cells(aa=(1.0, 77.6)), {}).thesis.isna().sum() == 1
    ), "nothing to derive it from"
