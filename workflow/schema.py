#!/usr/bin/env python
"""Write docs/schema/: what the files of the study may hold, as JSON Schema.

    python workflow/schema.py            # from the dataclasses that read them
    python workflow/schema.py --check    # whether the files are what these make

An editor that knows YAML completes and checks a profile that begins with
`# yaml-language-server: $schema=../docs/schema/profile.schema.json`.
"""

import json
import sys
from pathlib import Path

import pydantic
from fastcore.docments import docments

from effdl_nb import checked, row_file, rows, spec

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "schema"
KINDS = {"profile": spec.Profile, "tables": dict[str, spec.Table], "row": row_file.RowFile}
PARTS = (spec.Profile, spec.Plan, spec.Table, spec.RowSpec, spec.Column)
PARTS += (row_file.RowFile, row_file.CellRecord, row_file.MeasurementRecord)
PARTS += (row_file.PrintedValue,)


def describe(part: dict) -> None:
    "Add what a dataclass and the comments of its fields say; leave out what its place gives."
    kind = next((kind for kind in PARTS if kind.__name__ == part.get("title")), None)
    if kind is None:
        return
    part["description"] = kind.__doc__
    allowed, comments = checked.file_fields(kind), docments(kind)
    part["required"] = [name for name in part.get("required", []) if name in allowed]
    part["properties"] = {name: part["properties"][name] for name in allowed}
    for name, schema in part["properties"].items():
        if comments[name]:
            schema["description"] = " ".join(comments[name].split())


def schema_of(name: str) -> dict:
    "The JSON Schema of one kind of file."
    schema = pydantic.TypeAdapter(KINDS[name]).json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        describe(part)
    if name == "row":
        schema["properties"]["$schema"] = {"type": "string", "description": "this schema"}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | {"$id": rows.ROW_SCHEMA.replace("row.", f"{name}.")} | schema


def main(arguments: list[str]) -> str | None:
    "Write or check the schemas; what is wrong."
    texts = {
        FOLDER / f"{name}.schema.json": json.dumps(schema_of(name), indent=1) + "\n"
        for name in KINDS
    }
    if "--check" in arguments:
        old = [p.name for p, text in texts.items() if not p.exists() or p.read_text() != text]
        return f"{', '.join(old)} must be written anew: run `make schema`" if old else None
    FOLDER.mkdir(exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
