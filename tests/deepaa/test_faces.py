"The package hands out its faces, imports them only then, and has no circle of imports."

import ast
import importlib
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

from effdl_nb import deepaa

FOLDER = Path(deepaa.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
NOTEBOOKS = sorted((Path(__file__).parents[2] / "nbs" / "03_deepaa").glob("*.ipynb"))


@pytest.mark.parametrize("name", deepaa.__all__)
def test_a_face_is_what_its_module_defines(name):
    face = getattr(deepaa, name)
    assert face is getattr(importlib.import_module(face.__module__), name)
    assert name in dir(deepaa) and name not in MODULES, "importing a module replaces a face"


def test_the_package_itself_imports_nothing():
    code = (
        "import sys, effdl_nb.deepaa as d\n"
        "assert {'PolicySearch', 'load_policy', '__doc__'} <= set(dir(d))\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        "from effdl_nb.deepaa import load_policy\n"
        "assert 'effdl_nb.deepaa.search' not in sys.modules, 'reading a policy searches nothing'\n"
        "assert 'torchvision' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_no_face_raises_and_modules_are_found():
    with pytest.raises(AttributeError, match="no attribute 'search_everything'"):
        deepaa.search_everything  # noqa: B018
    from effdl_nb.deepaa import search

    assert search.__name__ == "effdl_nb.deepaa.search"


def exported(notebook: Path) -> str:
    "The module that a notebook makes."
    import json

    cells = json.loads(notebook.read_text())["cells"]
    (line,) = (c["source"][0] for c in cells if c["source"][:1] and "default_exp" in c["source"][0])
    return line.split("deepaa.")[1].strip()


def imported(module: str) -> set[str]:
    "The modules of the package that one of them imports, at its top or inside a function."
    names = set()
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), "effdl_nb.deepaa")
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    inside = [n.removeprefix("effdl_nb.deepaa.") for n in names if n.startswith("effdl_nb.deepaa.")]
    return {name.partition(".")[0] for name in inside} & set(MODULES)


def test_notebooks_are_numbered_in_the_order_of_their_imports():
    order = [exported(notebook) for notebook in NOTEBOOKS]
    assert sorted(order) == MODULES
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{n:02}" for n in range(1, len(order) + 1)]
    for place, module in enumerate(order):
        later = imported(module) - set(order[:place])
        assert not later, f"{module} imports {later}, which is read later"


def test_what_searches_share_knows_no_search():
    assert not imported("searching") & {"search", "random_search", "reward", "similarity"}
    assert "search" not in imported("similarity")
