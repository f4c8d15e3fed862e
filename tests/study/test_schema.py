"The published schemas are those of the code, and hold for everything that is committed."

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from effdl_nb import row_file, rows, spec, study
from effdl_nb.checked import checked

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "reports").glob("*/rows/*/*.json"))
COMMITTED = [path for path in COMMITTED if path.parts[-4] in ("laptop", "paper")]


def validator(name: str) -> jsonschema.Draft202012Validator:
    "What checks a file against a published schema."
    schema = json.loads((ROOT / "docs" / "schema" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_schemas_are_those_of_the_code():
    script = [sys.executable, ROOT / "workflow" / "schema.py", "--check"]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: "-".join(p.parts[-4:]))
def test_committed_rows_fit_the_schema_old_ones_too(path):
    content = json.loads(path.read_text())
    validator("row").validate(content)
    row = checked(row_file.RowFile, path.name, content)
    assert row.row == path.stem and row.measurements


def test_committed_profiles_and_tables_fit_the_schema():
    for name in spec.PROFILES:
        validator("profile").validate(yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    tables = yaml.safe_load((ROOT / "workflow" / "tables.yaml").read_text())
    validator("tables").validate(tables)


@pytest.mark.parametrize("change", [{"threads": "two"}, {"colour": 1}, {"jobs": "cell"}])
def test_the_schema_refuses_a_malformed_profile(change):
    content = yaml.safe_load((ROOT / "config" / "quick.yaml").read_text())
    with pytest.raises(jsonschema.ValidationError):
        validator("profile").validate(content | change)


def test_a_row_names_its_schema_and_fits_it(toy):
    study.run("table_9_1", "toy", say=lambda line: None).check()
    profile = spec.load_profile("toy")
    content = rows.read_row(rows.place(profile).row("table_9_1", "a"))
    assert (
        content["$schema"]
        == json.loads((ROOT / "docs" / "schema" / "row.schema.json").read_text())["$id"]
    )
    validator("row").validate(content)
    declared = {name for name in row_file.RowFile.__dataclass_fields__}
    assert content.keys() == declared | {"$schema"}
    parts = [
        (row_file.CellRecord, content["cells"]),
        (row_file.MeasurementRecord, content["measurements"]),
    ]
    for kind, several in parts:
        for part in several:
            assert set(part) == set(kind.__dataclass_fields__)
