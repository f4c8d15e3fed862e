"""What a policy says: shapes, laws and refusals that one example cannot show."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from effdl_nb.deepaa import analysis
from effdl_nb.deepaa.operations import SearchSpace, Transform
from effdl_nb.deepaa.policy import (
    Policy,
    deep_ta_policy,
    identity_policy,
    single_policy,
    trivial_augment_wide_policy,
)
from effdl_nb.deepaa.rivals import deepaa_simple, rival

CIFAR, IMAGENET = SearchSpace.cifar(), SearchSpace.imagenet()


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


def readable(figure: Figure) -> None:
    """Draw the figure; its words are at least 8 points, it is 7 inches wide, and no tick labels of an axis overlap."""
    figure.canvas.draw()
    assert figure.get_size_inches()[0] == 7.0
    words = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    assert words and min(t.get_fontsize() for t in words) >= 8
    for axis in figure.axes:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            boxes = [t.get_window_extent() for t in labels if t.get_text() and t.get_visible()]
            assert not any(
                a.shrunk(0.98, 0.75).overlaps(b.shrunk(0.98, 0.75))
                for a, b in itertools.combinations(boxes, 2)
            ), axis.get_title()


@pytest.mark.parametrize("space,name", [(CIFAR, "cifar"), (IMAGENET, "imagenet")])
@pytest.mark.parametrize("layers", [1, 5])
def test_a_policy_survives_its_row(space, name, layers):
    policy = random_policy(layers, layers, space)
    again = analysis.policy_from_details(rounded(policy, name))
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
def test_what_is_no_rounded_policy_is_refused(found):
    with pytest.raises(ValueError):
        analysis.policy_from_details(found)


def test_rows_without_a_policy_have_none():
    policy = rounded(random_policy(2), "cifar")
    rows = [
        {"row": "deepaa", "details": None},
        {"row": "deepaa", "details": {"entropy": []}},
        {"row": "aa", "details": {"policy": policy}},
    ]
    assert analysis.searched_policy(rows) is None
    assert (
        analysis.searched_policy([*rows, {"row": "deepaa", "details": {"policy": policy}}]).layers
        == 2
    )


def test_too_few_layers_are_said_and_trainings_compared():
    row = {
        "row": "deepaa",
        "columns": ["cifar10"],
        "seed": 1,
        "settings": {"layers": None, "search_layers": 3},
        "details": {"layers_used": 2, "stopped": "so"},
    }
    assert analysis.layers_short([row]) == ["deepaa, cifar10, seed 1: 2 of 3 layers (so)"]
    assert (
        analysis.layers_short(
            [{**row, "settings": {"layers": 2, "search_layers": 3}}, {**row, "details": {}}]
        )
        == []
    )
    one = {
        "network": "wrn-16-2",
        "epochs": 13,
        "layers": 1,
        "search_seed": 0,
        "mirror": True,
        "held_out_pairs": 2,
    }
    assert (
        analysis.training_differences(one, {"network": "wrn-16-2", "epochs": 13, "layers": 3}) == {}
    )
    assert analysis.training_differences(one, {**one, "epochs": 12, "lr": 0.1}) == {
        "epochs": (13, 12),
        "lr": (None, 0.1),
    }


def test_magnitudes_share_a_scale():
    for space in (CIFAR, IMAGENET):
        for name in (*analysis.GEOMETRIC, "Contrast", "Color", "Brightness", "Sharpness"):
            scaled = [analysis.normalised_magnitude(space[n], space) for n in space.indices(name)]
            np.testing.assert_allclose(scaled, [5 * k / 6 for k in range(-6, 7) if k], atol=1e-12)
    assert analysis.normalised_magnitude(Transform("ShearX", 0.99), CIFAR) == 5.0, (
        "beyond the range: its end"
    )
    assert math.isnan(analysis.normalised_magnitude(Transform("Crop"), CIFAR))
    with pytest.raises(ValueError, match="pixels"):
        analysis.normalised_magnitude(Transform("TranslateX", 9.0), SearchSpace.wide())


def test_maps_hold_all_of_the_probability():
    policy = random_policy(4)
    operations, levels = analysis.operation_frame(policy), analysis.level_frame(policy)
    assert len(operations) == 4 * 18 and len(levels) == 4 * 11 * 12
    np.testing.assert_allclose(operations.groupby("layer").probability.sum(), 1)
    both = levels.groupby(["layer", "operation"]).probability.sum()
    np.testing.assert_allclose(
        both, operations.set_index(["layer", "operation"]).probability[both.index]
    )
    line = levels[(levels.layer == 3) & (levels.operation == "Rotate") & (levels.level == 7)].iloc[
        0
    ]
    place = CIFAR.transforms.index(Transform("Rotate", 5.0, 7))
    assert line.magnitude == 5.0 and line.probability == policy.probabilities[2, place].item()


def test_cumulated_is_depth():
    policies = {
        "ours": random_policy(5),
        "AA": rival("aa", CIFAR),
        "TA (RA)": rival("ta_ra", CIFAR),
        "simple": deepaa_simple(random_policy(2)),
    }
    frame = analysis.cumulated_frame(policies)
    for method, policy in policies.items():
        assert frame[frame.method == method].probability.sum() == pytest.approx(policy.layers)
    for method in ("AA", "TA (RA)"):
        defaults = frame[(frame.method == method) & frame.operation.isin(analysis.FAMILY)]
        assert defaults.probability.tolist() == pytest.approx([1.0] * 3)
    assert (
        not frame.duplicated(["method", "operation", "magnitude"]).any()
        and (frame.probability > 0).all()
    )


def test_what_has_no_place_on_the_scale_is_refused():
    with pytest.raises(ValueError, match="continuum"):
        analysis.cumulated_frame({"UA": rival("ua", CIFAR)})
    with pytest.raises(ValueError, match="pixels"):
        analysis.cumulated_frame({"TA (Wide)": trivial_augment_wide_policy()})


def test_observations_of_known_policies():
    policies = {
        "random": deep_ta_policy(CIFAR, 2),
        "fixed": single_policy(CIFAR, "Crop", "Invert", "Identity"),
    }
    seen = analysis.policy_observations(analysis.cumulated_frame(policies)).set_index("method")
    columns = ["crop, Cutout, flip", "geometric", "colour", "identity"]
    np.testing.assert_allclose(
        seen.loc["random", columns].astype(float), [2 * k / 18 for k in (3, 5, 9, 1)]
    )
    assert seen["strong magnitudes"]["random"] == pytest.approx(0.5)
    assert seen.loc["fixed", columns].tolist() == [1, 0, 1, 1] and math.isnan(
        seen["strong magnitudes"]["fixed"]
    )


@pytest.mark.parametrize(
    "policy,favoured",
    [
        (single_policy(CIFAR, "Invert", "Cutout", "Crop"), True),
        (single_policy(CIFAR, "Crop", "Invert", "Equalize"), False),
        # the deeper layer is no more so than the first
        (single_policy(CIFAR, "Crop", "Cutout"), False),
        (deep_ta_policy(IMAGENET, 4), False),
        (identity_policy(CIFAR, 3), False),
        (single_policy(CIFAR, "Flip"), None),
    ],
)
def test_verdict_on_the_family(policy, favoured):
    verdict = analysis.family_verdict(policy)
    assert verdict["favoured"] is favoured and verdict["by chance"] == pytest.approx(3 / 18)
    assert favoured or verdict["above chance"] in ([], ["Cutout"]), (
        "random layers are at chance, not above"
    )
    words = analysis.verdict_words(verdict)
    assert ("NOT favour" in words) == (favoured is False) and ("no deeper layer" in words) == (
        favoured is None
    )


def test_shares_of_what_is_applied():
    half = (
        single_policy(CIFAR, "Identity").probabilities + single_policy(CIFAR, "Flip").probabilities
    ) / 2
    shares = analysis.family_shares(
        Policy(torch.cat([half, identity_policy(CIFAR).probabilities]), CIFAR)
    )
    assert (
        shares["family"].tolist() == [0.5, 0.0]
        and shares["family when applied"].tolist() == [1.0, 0.0]
        and shares.leading[0] == "Flip"
    )


def test_depths_need_records_or_nothing():
    found = analysis.depth_frame({"a": None, "b": []}, {"a": {2: (60.0, 1.0), 0: (50.0, None)}})
    assert found.depth.tolist() == [0, 2] and found.half_width.isna().tolist() == [True, False]
    records = [
        {"depth": 0, "improvement": 0.0, "improvement_deviation": 0.0},
        {"depth": 1, "improvement": 0.1, "improvement_deviation": 0.2},
    ]
    assert analysis.depth_frame({"a": records}, {}).half_width.isna().all(), (
        "no interval without the number of pairs"
    )
    with pytest.raises(ValueError, match="at least 2"):
        analysis.depth_frame({"a": records}, {}, pairs=1)


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


def test_the_simple_method_is_derived_once_and_never_over_a_printed_value():
    labels = {"deepaa": "Deep AutoAugment"}
    absent = analysis.compared_accuracies(table_cells(deepaa=(50.0, 78.3), aa=(49.0, 77.6)), labels)
    given = analysis.compared_accuracies(
        table_cells(deepaa=(50.0, 78.3), deepaa_simple=(48.0, None)), labels
    )
    printed = analysis.compared_accuracies(
        table_cells(deepaa=(50.0, 78.3), deepaa_simple=(48.0, 78.0)), labels
    )
    part = analysis.compared_accuracies(
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
    assert analysis.compared_accuracies(table_cells(aa=(1.0, 77.6)), {}).thesis.isna().sum() == 1, (
        "nothing to derive it from"
    )


RECORDS = [
    {"depth": k, "improvement": 0.1 * k, "improvement_deviation": 0.05 * k} for k in range(7)
]


@pytest.mark.parametrize(
    "draw",
    [
        analysis.draw_pipelines,
        lambda: analysis.draw_accuracies(
            table_cells(deepaa=(50.1, 78.3), aa=(None, 77.6), ra=(47.0, None)),
            {"ra": "RandAugment"},
            "network small",
        ),
        lambda: analysis.draw_operations(
            {"CIFAR-10": random_policy(6), "ImageNet space": random_policy(5, 1, IMAGENET)}
        ),
        lambda: analysis.draw_operations({"CIFAR-10": random_policy(1), "ImageNet space": None}),
        lambda: analysis.draw_depths(
            {"DeepAA": RECORDS, "DeepTA": RECORDS},
            {"DeepAA": {1: (96.0, 0.2)}, "DeepTA": {1: (95.0, None)}},
            256,
        ),
        lambda: analysis.draw_magnitudes(random_policy(1), "one layer"),
        lambda: analysis.draw_magnitudes(random_policy(5, space=IMAGENET), "five layers"),
        lambda: analysis.draw_cumulated(
            {
                "DeepAA": random_policy(5),
                "AutoAugment": rival("aa", CIFAR),
                "a": random_policy(2),
                "b": random_policy(3),
            }
        ),
    ],
)
def test_figures_are_readable_and_come_with_their_numbers(draw):
    figure, frame = draw()
    readable(figure)
    assert isinstance(frame, pd.DataFrame) and len(frame)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: analysis.draw_operations({"CIFAR-10": None}),
        lambda: analysis.draw_magnitudes(None, "ImageNet"),
        lambda: analysis.draw_depths({"DeepAA": None}, {}),
    ],
)
def test_nothing_measured_is_said(draw):
    figure, frame = draw()
    assert (
        frame.empty
        and len(frame.columns)
        and any("not measured" in t.get_text() for t in figure.findobj(Text))
    )


def test_an_empty_place_in_the_grid_of_layers_stays_empty():
    figure, _ = analysis.draw_magnitudes(random_policy(3))
    assert [axis.axison for axis in figure.axes[:4]] == [True] * 3 + [False]
