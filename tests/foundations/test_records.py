"What others read of a profile: a tidy table of the committed rows, and a crate that conforms."

import importlib.util
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from effdl_nb import records
from effdl_nb.provenance import project_root
from effdl_nb.rows import Place
from effdl_nb.spec import load_profile, load_tables


@pytest.fixture
def laptop(tmp_path) -> Path:
    "The folder of the committed rows of profile laptop, alone."
    rows = project_root() / "reports" / "laptop" / "rows"
    shutil.copytree(rows, tmp_path / "laptop" / "rows")
    return tmp_path / "laptop"


def test_every_value_of_the_committed_rows_is_a_line_old_rows_too(laptop):
    frame = records.results_frame("laptop", laptop.parent)
    table = load_tables()["table_4_1"]
    for path in (laptop / "rows" / "table_4_1").glob("*.json"):
        for cell in json.loads(path.read_text())["cells"]:
            mine = frame[(frame.table == table.key) & (frame.row == path.stem)]
            values = mine.value[mine.column == cell["column"]]
            assert len(values) == cell["n"] and values.mean() == pytest.approx(cell["mean"])
    assert frame.processor_kind.isna().any() and frame.device.notna().all()
    assert set(frame.unit) <= {"%", "M", "s", "", "bits", "layers", "% zeros", "1 is on"}
    accuracy = frame[frame.table == "table_4_1"]
    assert accuracy.higher_is_better.all() and accuracy.all_data.all()
    flops = frame[frame.column == "flops"]
    assert len(flops) and not flops.higher_is_better.any()


def test_parquet_keeps_what_csv_says(laptop):
    pytest.importorskip("pyarrow", reason="the extra `grid` is not installed")
    csv, parquet = records.write_results("laptop", laptop.parent)
    kept = pd.read_parquet(parquet)
    pd.testing.assert_frame_equal(
        kept.astype(object).where(kept.notna(), None)[["table", "row", "seed", "unit"]],
        pd.read_csv(csv)
        .astype(object)
        .where(lambda f: f.notna(), None)[["table", "row", "seed", "unit"]]
        .fillna(""),
    )
    assert kept.dtypes["value"] == "float64" and kept.dtypes["higher_is_better"] == "boolean"


def test_an_empty_profile_has_a_crate_and_no_values(tmp_path):
    assert records.results_frame("laptop", tmp_path).empty
    described = records.crate(load_profile("laptop"), Place(tmp_path, "laptop"))
    assert not [e for e in described["@graph"] if e["@type"] == "CreateAction"]


def test_the_crate_conforms(laptop):
    "The validator reads the terms of JSON-LD from a network; `rocrate` has them in a file."
    if None in map(importlib.util.find_spec, ("rocrate", "rocrate_validator")):
        pytest.skip("rocrate and roc-validator are not installed (they bring twenty packages)")
    import rocrate
    from rocrate_validator import models, services

    records.write_results("laptop", laptop.parent)
    path = records.write_crate("laptop", laptop.parent)
    terms = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"
    described = json.loads(path.read_text()) | {
        "@context": json.loads(terms.read_text())["@context"]
    }
    path.write_text(json.dumps(described))
    settings = services.ValidationSettings(
        rocrate_uri=str(laptop),
        profile_identifier="ro-crate-1.1",
        requirement_severity=models.Severity.REQUIRED,
    )
    result = services.validate(settings)
    assert [issue.message for issue in result.get_issues()] == [] and result.passed()
