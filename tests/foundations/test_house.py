"""How the modules of Chapter 4 lean on each other: in short chains, its families side by side."""

import ast
import functools
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = "effdl_nb.condensation"
FOLDER = Path(__file__).parents[2] / "effdl_nb" / "condensation"
FAMILIES = ("coresets", "matching", "kernels", "distillation", "trajectory")
LONGEST = 7


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


@functools.lru_cache
def imports(folder: Path, module: str) -> frozenset[str]:
    "The modules of a package that one of them imports, at its top or inside a function."
    inside = set(names(folder))
    found = set()
    for node in ast.walk(ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), PACKAGE)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    parts = [name.removeprefix(f"{PACKAGE}.").partition(".")[0] for name in found]
    return frozenset(part for part in parts if part in inside)


def longest_chain(folder: Path, module: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
    "The longest chain of imports that begins with a module. Raises ValueError for a circle."
    if module in above:
        raise ValueError(f"a circle: {' -> '.join((*above, module))}")
    below = [longest_chain(folder, m, (*above, module)) for m in imports(folder, module)]
    return (module, *max(below, key=len, default=()))


def reached(folder: Path, module: str) -> set[str]:
    "The modules of the package that importing one of them may load."
    found, todo = set(), [module]
    while todo:
        new = imports(folder, todo.pop()) - found
        found |= new
        todo += new
    return found


def test_the_longest_chain_of_imports_is_short():
    chain = max((longest_chain(FOLDER, m) for m in names(FOLDER)), key=len)
    assert 2 < len(chain) <= LONGEST, " -> ".join(chain)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_import_none_of_each_other(family):
    assert not reached(FOLDER, family) & set(FAMILIES)
    assert {"real", "learning", "sets", "images"} <= reached(FOLDER, family)  # their common ground


def test_what_is_common_knows_no_family():
    for module in ("images", "sets", "initial", "real", "learning", "methods", "condensing"):
        assert not reached(FOLDER, module) & set(FAMILIES), module
    assert reached(FOLDER, "evaluation") & set(FAMILIES) == {"coresets"}  # for its random images
    # the command also evaluates with the kernel that KIP was made for
    assert reached(FOLDER, "__main__") & set(FAMILIES) == {"coresets", "kernels"}


def test_the_count_sees_circles_functions_and_both_ways_to_import(tmp_path):
    texts = {
        "a": "from .b import f",
        "b": "def f():\n    from . import c\n",
        "c": f"from {PACKAGE}.d import g",
        "d": f"import {PACKAGE}.e",
        "e": "import torch\nfrom .. import data\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert longest_chain(tmp_path, "a") == ("a", "b", "c", "d", "e")
    assert reached(tmp_path, "c") == {"d", "e"}
    imports.cache_clear()
    (tmp_path / "e.py").write_text("from .c import h")
    with pytest.raises(ValueError, match="c -> d -> e -> c"):
        longest_chain(tmp_path, "a")
    imports.cache_clear()
