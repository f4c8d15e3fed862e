"""What an import of Chapter 4 loads: a method without the others, and the package without torch."""

import subprocess
import sys

import pytest
from importing import loaded_by

PACKAGE = "effdl_nb.condensation"
TRAJECTORIES = {"trajectory", "iatm", "importance", "experts"}
INNER = {"unroll", "memory"}  # derivatives are shared ground
FAMILIES = {"coresets", "matching", "kernels", "distillation"} | TRAJECTORIES | INNER
OWN = {  # tests/foundations/test_house.py follows the imports of all
    "coresets": {"coresets"},
    "matching": {"matching"},
    "kernels": {"kernels"},
    "trajectory": TRAJECTORIES | INNER,
    "experiments": {"coresets"} | INNER,  # it evaluates, beside as many random images
}


def output(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_module_loads_no_family_but_its_own():
    loaded = loaded_by([f"{PACKAGE}.{module}" for module in OWN], ["torch"])
    for module, own in OWN.items():
        names = {name.removeprefix(f"{PACKAGE}.") for name in loaded[f"{PACKAGE}.{module}"]}
        assert module in names and names & FAMILIES == own, module


def test_the_package_loads_no_torch_until_a_face_is_asked_for():
    code = f"import sys, {PACKAGE} as chapter\nprint('torch' in sys.modules)\nprint(*dir(chapter))"
    torch, names = output(code).splitlines()
    assert torch == "False"
    assert {"condense", "make_set", "evaluate", "CondensedSet", "METHODS", "defaults"} <= set(
        names.split()
    )


def test_faces_are_what_they_are_after_every_module_was_imported():
    code = f"""
import importlib, pkgutil
import {PACKAGE} as chapter
for module in pkgutil.iter_modules(chapter.__path__):
    importlib.import_module(f"{PACKAGE}.{{module.name}}")
from {PACKAGE} import CondensedSet, condense, evaluate
for name in chapter.__all__:
    face = getattr(chapter, name)
    print(name, type(face).__name__, getattr(face, "__module__", "").rpartition(".")[2])
    exec(f"from {PACKAGE} import {{name}} as again")
    assert again is face
assert condense is chapter.condense and callable(evaluate) and isinstance(CondensedSet, type)
"""
    assert output(code).splitlines() == [
        "condense function condensing",
        "make_set function condensing",
        "evaluate function evaluation",
        "CondensedSet type sets",
        "METHODS dict ",
        "defaults function methods",
    ]


def test_a_face_that_there_is_not():
    import effdl_nb.condensation as chapter

    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        chapter.distil  # noqa: B018
    with pytest.raises(ImportError, match="distil"):
        from effdl_nb.condensation import distil  # noqa: F401
