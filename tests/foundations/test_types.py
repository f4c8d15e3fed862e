"Types: every public function says all of its own, and a checker finds nothing where it looks."

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [p for p in sorted((ROOT / "effdl_nb").rglob("*.py")) if p.name != "_modidx.py"]
SPECIAL = ("__init__", "__call__")


def public_functions(body: list, owner: str = "") -> list[tuple[str, ast.FunctionDef]]:
    "The functions and methods of a module that a user may call."
    functions = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            functions += public_functions(node.body, f"{node.name}.")
        if isinstance(node, ast.FunctionDef) and (
            not node.name.startswith("_") or node.name in SPECIAL
        ):
            functions.append((owner + node.name, node))
    return functions


def lacking(function: ast.FunctionDef) -> list[str]:
    "The parameters without a type, and `return`."
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    names = [p.arg for p in every if p.annotation is None and p.arg not in ("self", "cls")]
    untold = function.returns is None and function.name != "__init__"
    return names + (["return"] if untold else [])


def test_every_public_function_is_fully_annotated():
    functions = {
        f"{path.relative_to(ROOT)}: {name}": lacking(function)
        for path in MODULES
        for name, function in public_functions(ast.parse(path.read_text()).body)
    }
    assert len(functions) > 900
    assert {name: names for name, names in functions.items() if names} == {}


def check(*words: str) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("ty"), "check", "--output-format", "concise", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_checker_finds_nothing():
    done = check()
    assert done.returncode == 0, done.stdout


def test_what_the_checker_leaves_out_has_faults():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ty"]["src"]
    left_out = set(settings["exclude"]) - {"effdl_nb/_modidx.py"}
    faulty = {line.partition(":")[0] for line in check("effdl_nb").stdout.splitlines()}
    faulty |= {line.partition(":")[0] for line in check(*sorted(left_out)).stdout.splitlines()}
    assert left_out <= faulty, f"these can be checked now: {sorted(left_out - faulty)}"


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "effdl_nb" / "py.typed").exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "Typing :: Typed" in project["project"]["classifiers"]
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["effdl_nb"]
