"""A row's hash covers the code of its own method: an edit of another one leaves it alone."""

import re
import shutil
from pathlib import Path

import pytest

import effdl_nb
from effdl_nb import provenance
from effdl_nb.condensation.experiments import EXPERTS, MAKE, PREPARE, WATCH, maker_of
from effdl_nb.spec import code_roots, load_profile, load_tables, settings_of

PACKAGE = Path(effdl_nb.__file__).parent
TABLES = ("table_4_1", "table_4_2", "table_4_4", "table_4_a")
FAMILIES = {
    "coresets": {"random", "herding", "forgetting"},
    "matching": {"dc", "dsa", "dm", "cafe", "cafe_dsa"},
    "kernels": {"kip"},
    "distillation": {"dd", "ld"},
    "trajectory": {"mtt", "iatm"},
}
METHODS = set.union(*FAMILIES.values())


def rows() -> dict[tuple[str, str], tuple[str, tuple[str, ...], tuple[str, ...]]]:
    "Of each row of the quick profile: its method, its roots, and those of what it shares."
    profile, tables, found = load_profile("quick"), load_tables(), {}
    for key in TABLES:
        plan = profile.tables[key]
        for row in plan.rows:
            settings = settings_of(tables[key], plan, row, plan.columns[0])
            roots = code_roots(tables[key], row, settings)
            found[key, row] = (settings.method, roots, (MAKE, *maker_of(row, settings)))
    return found


@pytest.fixture(scope="module")
def known():
    return rows()


@pytest.fixture
def copied(tmp_path, monkeypatch):
    "A copy of the package, which hashes are taken of."
    shutil.copytree(
        PACKAGE, tmp_path / "effdl_nb", ignore=lambda _, names: {n for n in names if n[0] == "."}
    )

    def origin(module: str) -> str | None:
        path = tmp_path.joinpath(*module.split("."))
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.exists():
                return str(candidate)
        return None

    monkeypatch.setattr(provenance, "_origin", origin)
    for name in ("_WALKS", "_FIRST"):  # of the package itself, which other tests ask for
        monkeypatch.setattr(provenance, name, {})
    return tmp_path / "effdl_nb" / "condensation"


def edit(path: Path, old: str, new: str):
    "Replace a text that stands in a file once."
    text = path.read_text()
    assert text.count(old) == 1, (path.name, old, text.count(old))
    path.write_text(text.replace(old, new))


def hashes(known, part: int = 1) -> dict:
    return {row: provenance.code_hash(*value[part]) for row, value in known.items()}


def changed(known, copied, *edits) -> set[str]:
    "Methods whose rows have another hash after some edits; every row of a method, or none."
    before = hashes(known)
    for module, old, new in edits:
        edit(copied / f"{module}.py", old, new)
    after = hashes(known)
    methods = {known[row][0] for row in known if after[row] != before[row]}
    for row, (method, *_) in known.items():
        assert (after[row] != before[row]) == (method in methods), row
    return methods


def test_the_copy_stands_for_the_package(known, copied, monkeypatch):
    copies = hashes(known)
    monkeypatch.undo()
    assert hashes(known) == copies
    assert {method for method, *_ in known.values()} == METHODS | {"full"}
    assert len({copies["table_4_1", method] for method in METHODS}) >= len(FAMILIES)


@pytest.mark.parametrize(
    ("module", "old", "new", "methods"),
    [
        ("kernels", "theta = sigma + w * E0 * theta", "theta = w * E0 * theta + sigma", {"kip"}),
        ("kernels", "iterations: int = 5000", "iterations: int = 5001", {"kip"}),
        ("trajectory", "while len(batches) < c.student_steps", "while False", {"mtt", "iatm"}),
        ("trajectory", "interval: int = 100", "interval: int = 99", {"mtt", "iatm"}),
        ("trajectory", 'reading: str = "rank"', 'reading: str = "soft"', {"iatm"}),
        ("iatm", "CLAMP = 1e-8", "CLAMP = 1e-9", {"mtt", "iatm"}),
        (
            "distillation",
            "groups, schedule = min(steps, max(counts)), []",
            "groups, schedule = max(counts), []",
            {"dd", "ld"},
        ),
        (
            "unroll",
            "LR_BOUNDS = (1e-5, 1.0)",
            "LR_BOUNDS = (1e-6, 1.0)",
            {*"dd ld mtt iatm".split()},
        ),
        ("matching", "+ 1e-6)).sum()", "+ 1e-7)).sum()", FAMILIES["matching"]),
        ("coresets", "features = features.double()", "features = features.float()", None),
        # of all that learn, and of all
        (
            "learning",
            "learned.skipped += 1",
            "learned.skipped += 2",
            METHODS - FAMILIES["coresets"],
        ),
        ("evaluation", "momentum=0.9", "momentum=0.8", METHODS | {"full"}),
        ("real", "_LAST.clear()", "pass", METHODS | {"full"}),
    ],
)
def test_an_edit_changes_the_rows_that_run_it(known, copied, module, old, new, methods):
    methods = {"herding", "forgetting"} if methods is None else methods
    assert changed(known, copied, (module, old, new)) == methods


def cut(path: Path, name: str) -> str:
    "Take a function out of a module; its text."
    text = path.read_text()
    (found,) = re.finditer(rf"^def {name}\(.*?(?=^# %%|^def |^class |^@|\Z)", text, re.M | re.S)
    path.write_text(text.replace(found[0], ""))
    return found[0]


@pytest.mark.parametrize(
    ("module", "name", "needs"),
    [
        ("matching", "settled", ""),
        ("matching", "row_distance", "import torch\nfrom torch import Tensor\n"),
        ("trajectory", "largest_start", "from .trajectory import MTTConfig\n"),
    ],
)
def test_a_function_that_moves_takes_its_hash_along(known, copied, module, name, needs):
    before = hashes(known), hashes(known, 2)
    path = copied / f"{module}.py"
    (copied / "moved.py").write_text(f'"Elsewhere."\n{needs}\n\n{cut(path, name)}')
    assert f"def {name}(" in (copied / "moved.py").read_text()
    with pytest.raises(ValueError, match=f"'{name}'"):
        provenance.code_hash(f"effdl_nb.condensation.{module}:{name}")
    edit(
        path,
        "from .sets import CondensedSet\n",
        f"from .moved import {name}\nfrom .sets import CondensedSet\n",
    )
    assert (hashes(known), hashes(known, 2)) == before
    # it still counts, where it is now
    edit(copied / "moved.py", "    return ", "    return 2 * ")
    assert {known[row][0] for row, h in hashes(known).items() if h != before[0][row]}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (
            "methods",
            '    "random": Method(',
            '    "noise": Method("Noise", _MATCH, "none"),\n    "random": Method(',
        ),
        (
            "methods",
            '_CORESET = {"width": 8,',
            '_CORESET = {"width": 9,',
        ),  # settings are a row's own
        ("methods", '"Herding", f"', '"Welling\'s", f"'),
        ("kernels", "    theta = sigma\n", "    theta = sigma  # to begin with\n"),
        ("kernels", '    "One-hot vectors minus', '    "Vectors of ones and zeros minus'),
        (
            "trajectory",
            '    "Give the last epoch of an expert',
            '    "Say which is the last of an expert',
        ),
        ("trajectory", "CACHE_BYTES = 2**29", "\n# %% of another notebook\nCACHE_BYTES = 2**29"),
        ("matching", "def row_distance(\n    a: Tensor,", "def row_distance(\n    a: list,"),
        ("experiments", "rows=SCHEDULE_ROWS, build=", "rows=SCHEDULE_ROWS[:3], build="),
    ],
)
def test_what_shapes_no_number_changes_no_row(known, copied, module, old, new):
    before = hashes(known, 2)
    assert changed(known, copied, (module, old, new)) == set()
    assert hashes(known, 2) == before


@pytest.mark.parametrize(
    ("module", "old", "new", "makes", "trains"),
    [
        # the loss of IATM: its sets, and no experts
        ("iatm", "CLAMP = 1e-8", "CLAMP = 1e-9", {"mtt", "iatm"}, False),
        ("experts", '"constant"', '"step"', {"mtt", "iatm"}, True),
        ("images", "linalg.eigh(C.div_(n - 1))", "linalg.eigh(C.div_(n))", METHODS, True),
        # the evaluation: neither
        ("evaluation", "momentum=0.9", "momentum=0.8", set(), False),
        ("kernels", "n = len(K_ss)", "n = K_ss.shape[0]", {"kip"}, False),
    ],
)
def test_what_rows_share_is_made_again_when_its_code_changes(
    known, copied, module, old, new, makes, trains
):
    sets, experts = hashes(known, 2), provenance.code_hash(*EXPERTS)
    edit(copied / f"{module}.py", old, new)
    after = hashes(known, 2)
    again = {known[row][0] for row in known if after[row] != sets[row]} - {"full"}
    assert again == makes and (provenance.code_hash(*EXPERTS) != experts) == trains


def test_accuracies_on_the_way_are_those_of_the_evaluation(copied):
    before = provenance.code_hash(WATCH), provenance.code_hash(PREPARE)
    edit(copied / "evaluation.py", "momentum=0.9", "momentum=0.8")
    after = provenance.code_hash(WATCH), provenance.code_hash(PREPARE)
    assert before[0] != after[0] and before[1] == after[1]
