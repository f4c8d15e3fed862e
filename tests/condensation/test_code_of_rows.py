"""A row's hash covers the code of its own method: an edit of another one leaves it alone."""

import ast
import shutil
from collections.abc import Callable
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


def definition(tree: ast.Module, name: str) -> ast.stmt:
    "The statement at the top of a module that defines a name."
    for statement in tree.body:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        named = {getattr(target, "id", None) for target in targets}
        if name in named | {getattr(statement, "name", None)}:
            return statement
    raise AssertionError(f"{name} is not defined any more")


def rewrite(path: Path, change: Callable[[ast.Module], object]):
    "Change the syntax tree of a module."
    tree = ast.parse(path.read_text())
    change(tree)
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)))


def touch(copied: Path, name: str):
    "Edit one definition, named as module:name, and nothing else."
    module, _, name = name.partition(":")

    def change(tree: ast.Module):
        found = definition(tree, name)
        if hasattr(found, "body"):
            found.body.append(ast.Pass())
        else:
            found.value = ast.IfExp(ast.Constant(True), found.value, ast.Constant(None))

    rewrite(copied / f"{module}.py", change)


def hashes(known, part: int = 1) -> dict:
    "Of each row: the hash of its roots, or (part 2) of those of its set."
    return {row: provenance.code_hash(*value[part]) for row, value in known.items()}


def changed(known, before: dict, part: int = 1) -> set[str]:
    "Methods whose rows have another hash than before: all rows of a method, or none."
    after = hashes(known, part)
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
    ("name", "methods"),
    [
        ("kernels:ntk", {"kip"}),
        ("kernels:KernelConfig", {"kip"}),
        ("trajectory:_draw_batches", {"mtt", "iatm"}),
        ("trajectory:MTTConfig", {"mtt", "iatm"}),
        ("trajectory:IATMConfig", {"iatm"}),
        ("iatm:mtt_loss", {"mtt", "iatm"}),
        ("distillation:step_indices", {"dd", "ld"}),
        ("unroll:unroll", {"dd", "ld", "mtt", "iatm"}),
        ("matching:row_distance", FAMILIES["matching"]),
        ("coresets:herd", {"herding", "forgetting"}),
        # of all that learn, and of all
        ("learning:take_step", METHODS - FAMILIES["coresets"]),
        ("evaluation:training_of", METHODS | {"full"}),
        ("real:prepare", METHODS | {"full"}),
        ("experiments:EVAL_SEED", METHODS | {"full"}),
    ],
)
def test_an_edit_changes_the_rows_that_run_it(known, copied, name, methods):
    before = hashes(known)
    touch(copied, name)
    assert changed(known, before) == methods


@pytest.mark.parametrize(
    ("module", "name", "needs"),
    [
        ("matching", "settled", ""),
        ("matching", "row_distance", "import torch\nfrom torch import Tensor\n"),
        ("trajectory", "largest_start", "from .trajectory import MTTConfig\n"),
    ],
)
def test_a_function_that_moves_takes_its_hash_along(known, copied, module, name, needs):
    before, sets = hashes(known), hashes(known, 2)
    path, moved = copied / f"{module}.py", copied / "moved.py"

    def cut(tree: ast.Module):
        found = definition(tree, name)
        moved.write_text(f'"Elsewhere."\n{needs}\n\n{ast.unparse(found)}\n')
        tree.body.remove(found)

    rewrite(path, cut)
    with pytest.raises(ValueError, match=f"'{name}'"):
        provenance.code_hash(f"effdl_nb.condensation.{module}:{name}")
    path.write_text(f"{path.read_text()}\nfrom .moved import {name}\n")
    assert hashes(known) == before and hashes(known, 2) == sets
    # it still counts, where it is now
    touch(copied, f"moved:{name}")
    assert changed(known, before) & FAMILIES[module]


def other_docstrings(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body[0].value.value = "Do otherwise, it says."


def other_annotations(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = ast.Constant("list")
            for argument in node.args.args:
                argument.annotation = ast.Constant("list")


def one_more_method(tree: ast.Module):
    methods = definition(tree, "METHODS").value
    methods.keys.append(ast.Constant("noise"))
    methods.values.append(methods.values[0])


def another_declaration(tree: ast.Module):
    (declared,) = definition(tree, "condensation_accuracy").decorator_list
    declared.keywords.append(ast.keyword("rows", ast.Constant(None)))


@pytest.mark.parametrize("module", ["kernels", "trajectory", "matching", "coresets", "condensing"])
def test_words_about_code_change_no_row(known, copied, module):
    before, sets, path = hashes(known), hashes(known, 2), copied / f"{module}.py"
    assert path.read_text().count("\ndef ") > 3
    path.write_text(path.read_text().replace("\ndef ", "\n\n# %% of another notebook\ndef "))
    for change in (other_docstrings, other_annotations):
        rewrite(path, change)
        assert hashes(known) == before and hashes(known, 2) == sets, change
    assert path.read_text().count("Do otherwise, it says.") > 3


@pytest.mark.parametrize(
    ("module", "change"), [("methods", one_more_method), ("experiments", another_declaration)]
)
def test_what_builds_settings_changes_no_row(known, copied, module, change):
    before, sets = hashes(known), hashes(known, 2)
    rewrite(copied / f"{module}.py", change)
    assert hashes(known) == before and hashes(known, 2) == sets
    for name in ("methods:METHODS", "methods:configure", "experiments:build_settings"):
        touch(copied, name)  # settings are a row's own, written in full
        assert hashes(known) == before and hashes(known, 2) == sets, name


@pytest.mark.parametrize(
    ("name", "makes", "trains"),
    [
        ("iatm:iatm_loss", {"mtt", "iatm"}, False),  # no experts
        ("experts:train_expert", {"mtt", "iatm"}, True),
        ("images:fit_zca", METHODS, True),
        ("evaluation:training_of", set(), False),
        ("kernels:ridge_regression", {"kip"}, False),
    ],
)
def test_what_rows_share_is_made_again_when_its_code_changes(known, copied, name, makes, trains):
    sets, experts = hashes(known, 2), provenance.code_hash(*EXPERTS)
    touch(copied, name)
    assert changed(known, sets, 2) - {"full"} == makes
    assert (provenance.code_hash(*EXPERTS) != experts) == trains


def test_accuracies_on_the_way_are_those_of_the_evaluation(copied):
    before = provenance.code_hash(WATCH), provenance.code_hash(PREPARE)
    touch(copied, "evaluation:training_of")
    after = provenance.code_hash(WATCH), provenance.code_hash(PREPARE)
    assert before[0] != after[0] and before[1] == after[1]
