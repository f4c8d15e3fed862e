"Properties and faults of effdl_nb.msunet.analysis that its notebook does not show."

import itertools

import pytest

from effdl_nb import spec
from effdl_nb.msunet.analysis import DESIGN, EFFECTS, effects, pairs_differing, pruning_by_weights


def test_the_design_is_that_of_the_table():
    rows = spec.load_tables()["table_2_a"].rows
    assert {"_".join(cell) for cell in itertools.product(*DESIGN)} == set(rows)
    for profile in ("quick", "laptop", "paper"):
        assert effects(spec.load_profile(profile).tables["table_2_a"].rows), profile


@pytest.mark.parametrize("one, other", EFFECTS)
def test_pairs_differ_in_one_factor_and_each_row_serves_once(one, other):
    rows = list(spec.load_tables()["table_2_a"].rows)
    pairs = pairs_differing(rows, one, other)
    for first, second in pairs:
        changed = [
            (a, b) for a, b in zip(first.split("_"), second.split("_"), strict=True) if a != b
        ]
        assert changed == [(one, other)]
    assert len({row for pair in pairs for row in pair}) == 2 * len(pairs)
    assert len(pairs) == sum(one in row.split("_") for row in rows)


def test_only_measured_rows_are_compared():
    assert effects([]) == {} == pruning_by_weights(["binary_off_dense"])
    assert list(effects(["binary_off_dense", "ternary_off_dense"])) == ["ternary - binary"]


def test_factors_are_not_mixed_up():
    with pytest.raises(ValueError):
        pairs_differing([], "pruned", "binary")
