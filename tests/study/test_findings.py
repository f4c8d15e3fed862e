"""Verdicts on planted rows: the number, the sign and the command come from the rows alone."""

import pytest
import yaml

from effdl_nb import findings, rows, spec
from effdl_nb.verdicts import CONTRADICTED, HOLDS, LEVEL, OPEN, decide


@pytest.fixture
def planted(tmp_path):
    "Write rows of a table at profile laptop, as the study would: row -> seed -> value."

    def write(table: str, column: str, values: dict[str, dict[int, float]]):
        content, profile = spec.table_named(table), spec.load_profile("laptop")
        metric = content.columns[column].metric
        at = rows.place(profile, tmp_path)
        for row, by_seed in values.items():
            planned = rows.PlannedRow(content, profile, row, at)
            units = [u for u in planned.units if column in u.columns]
            metrics = {c.metric: [1.0] for c in content.columns.values()}
            kept = {
                u.hash: {
                    "hash": u.hash,
                    "code": u.code,
                    "seed": u.seed,
                    "columns": list(u.columns),
                    "settings": {},
                    "metrics": metrics | {metric: [by_seed[u.seed] - 0.5, by_seed[u.seed] + 0.5]},
                    "details": {},
                    "provenance": {},
                }
                for u in units
                if u.seed in by_seed
            }
            rows.write_row(planned, kept)
        return tmp_path

    return write


def verdict(reports, better, worse, margin=1.0, table="table_2_3", column="accuracy"):
    pair = findings.Pair(table, column, better, worse)
    claim = findings.Claim("k", 2, "", "", "", "", margin=margin, pairs=(pair,))
    return findings.compare(claim, pair, reports)


def test_a_planted_difference_is_found_with_its_sign_and_pairs(planted):
    seeds = spec.load_profile("laptop").tables["table_2_3"].seeds
    high = {s: 30.0 + s for s in seeds}
    low = {s: 25.0 + s + 0.1 * (s % 2) for s in seeds}
    reports = planted("table_2_3", "accuracy", {"ternary": high, "binary": low})
    up, down = verdict(reports, "ternary", "binary"), verdict(reports, "binary", "ternary")
    assert len(seeds) >= 3 and up.verdict.n == len(seeds)
    assert (up.verdict.word, down.verdict.word) == (HOLDS, CONTRADICTED)
    assert up.differences == {s: pytest.approx(5.0 - 0.1 * (s % 2)) for s in seeds}
    assert verdict(reports, "ternary", "ternary").verdict.word == LEVEL


def test_a_seed_that_one_row_lacks_makes_no_pair(planted):
    first, *rest = spec.load_profile("laptop").tables["table_2_3"].seeds
    reports = planted(
        "table_2_3", "accuracy", {"ternary": {first: 30.0}, "binary": {s: 20.0 for s in rest}}
    )
    part = verdict(reports, "ternary", "binary")
    assert part.differences == {} and part.verdict.word == OPEN and part.verdict.needed is None


def test_where_less_is_better_the_smaller_row_holds(planted):
    seeds = spec.load_profile("laptop").tables["table_2_3"].seeds
    values = {"ternary": dict.fromkeys(seeds, 1e8), "binary": dict.fromkeys(seeds, 2e8)}
    reports = planted("table_2_3", "flops", values)
    part = verdict(reports, "ternary", "binary", table="table_2_3", column="flops")
    assert part.verdict.word == HOLDS and part.verdict.mean == pytest.approx(100.0)


def test_one_count_decides_and_equal_accuracies_are_not_counts(planted):
    reports = planted("table_2_3", "flops", {"ternary": {0: 2e8}, "binary": {0: 1e8}})
    one = verdict(reports, "ternary", "binary", column="flops")
    assert one.counted and one.verdict.word == CONTRADICTED
    seeds = spec.load_profile("laptop").tables["table_2_3"].seeds
    reports = planted("table_2_3", "accuracy", {"ternary": dict.fromkeys(seeds, 30.0)})
    same = verdict(reports, "ternary", "ternary")
    assert same.verdict.half == 0 and not same.counted


def test_a_claim_about_a_row_that_does_not_exist_is_named(tmp_path):
    (tmp_path / "workflow").mkdir()
    content = {"chapter": 4, "claim": "c", "source": "s", "printed": "p", "size": "z"}
    pair = {"table": "table_4_1", "column": "cifar10_ipc1", "better": "iatn", "worse": "mtt"}
    path = tmp_path / "workflow" / "claims.yaml"
    path.write_text(yaml.safe_dump({"one": content | {"pairs": [pair]}}))
    with pytest.raises(ValueError, match="no row 'iatn'; allowed: full, random"):
        findings.load_claims(tmp_path)
    path.write_text(yaml.safe_dump({"one": content}))
    with pytest.raises(ValueError, match="claim one: pairs, counts or untestable is needed"):
        findings.load_claims(tmp_path)


@pytest.mark.parametrize("margin, effect", [(0.0, 1.0), (1.0, 0.0), (-1.0, None)])
def test_a_margin_that_is_no_margin_is_refused(margin, effect):
    with pytest.raises(ValueError, match="margin and effect must be above 0"):
        decide([1.0], margin, effect)
