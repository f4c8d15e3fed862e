"What a policy says: shapes, laws and errors that one example cannot show."

import math

import numpy as np
import pytest
import torch

from effdl_nb.deepaa import analysis
from effdl_nb.deepaa.defaults import deepaa_simple
from effdl_nb.deepaa.policy import Policy, deep_ta_policy, identity_policy, single_policy
from effdl_nb.deepaa.published import trivial_augment_wide_policy
from effdl_nb.deepaa.rivals import rival
from effdl_nb.deepaa.space import (
    GEOMETRIC,
    SearchSpace,
    Transform,
    cifar_space,
    imagenet_space,
    wide_space,
)

CIFAR, IMAGENET = cifar_space(), imagenet_space()


def random_policy(
    layers: int, seed: int = 0, space: SearchSpace = CIFAR, sharp: float = 3.0
) -> Policy:
    logits = torch.randn(
        layers, len(space), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return Policy((sharp * logits).softmax(1), space)


def test_magnitudes_share_a_scale():
    for space in (CIFAR, IMAGENET):
        for name in (*GEOMETRIC, "Contrast", "Color", "Brightness", "Sharpness"):
            scaled = [analysis.normalised_magnitude(space[n], space) for n in space.indices(name)]
            np.testing.assert_allclose(scaled, [5 * k / 6 for k in range(-6, 7) if k], atol=1e-12)
    assert analysis.normalised_magnitude(Transform("ShearX", 0.99), CIFAR) == 5.0, (
        "beyond the range: its end"
    )
    assert math.isnan(analysis.normalised_magnitude(Transform("Crop"), CIFAR))
    with pytest.raises(ValueError, match="pixels"):
        analysis.normalised_magnitude(Transform("TranslateX", 9.0), wide_space())


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


def test_what_has_no_place_on_the_scale_raises():
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


RECORDS = [
    {"depth": k, "improvement": 0.1 * k, "improvement_deviation": 0.05 * k} for k in range(7)
]
