"The rows that are committed still count: a new setting must not make measured ones unknown."

import json
from dataclasses import asdict, dataclass, field

import pytest

from effdl_nb.provenance import project_root
from effdl_nb.rows import Place, PlannedRow, Unit
from effdl_nb.spec import load_profile, load_tables

COMMITTED = sorted((project_root() / "reports").glob("*/rows/*/*.json"))
COMMITTED = [path for path in COMMITTED if path.parts[-4] in ("laptop", "paper")]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: "-".join(p.parts[-4:]))
def test_a_committed_measurement_is_one_that_its_profile_asks_for(path):
    profile = load_profile(path.parts[-4])
    at = Place(path.parents[3], profile.name)
    planned = PlannedRow(load_tables()[path.parent.name], profile, path.stem, at)
    asked = {unit.hash for unit in planned.units}
    measured = {m["hash"] for m in json.loads(path.read_text())["measurements"]}
    assert measured and measured <= asked


@dataclass(frozen=True)
class Inner:
    depth: int = 1
    speed: str = field(default="slow", metadata={"later": True})


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    options: dict = field(default_factory=dict, metadata={"later": True})


def test_a_later_setting_counts_only_where_it_is_not_the_default_nested_ones_too():
    def of(settings) -> str:
        return Unit("table_0_0", "row", 0, settings, ("a",), ()).hash

    first = of(Outer())
    assert of(Outer(Inner(speed="slow"), {})) == first
    others = [Outer(Inner(speed="fast")), Outer(options={"a": 1}), Outer(Inner(depth=2))]
    assert len({first, *map(of, others)}) == 4
    assert "speed" in asdict(Inner())
