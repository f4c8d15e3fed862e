"A hash of code sees what shapes a number, and nothing else."

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from effdl_nb import provenance

TOY = {
    "__init__": "",
    "experiments": """
        import dataclasses
        from . import helpers
        from .methods import PARTS

        @dataclasses.dataclass(frozen=True)
        class Settings:
            size: int = 1

        def both(x):
            return x

        def fast(task, settings=Settings()):
            return both(helpers.double(task))

        def slow(task):
            from .methods import solve as solver
            return both(solver(task))
        """,
    "helpers": """
        def double(x):
            return 2 * x

        def treble(x):
            return 3 * x
        """,
    "methods": """
        PARTS = {"a": 1}

        class Solver:
            steps = 3

            def run(self, x):
                return self.steps * shift(x)

        def shift(x):
            return x + 1

        def solve(x):
            return Solver().run(x)

        def plain(self, x):
            return x

        Solver.plain = plain
        """,
}
FAST, SLOW = "toy_code.experiments:fast", "toy_code.experiments:slow"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(**changed: str) -> tuple[str, str]:
        (tmp_path / "toy_code").mkdir(exist_ok=True)
        for name, text in (TOY | changed).items():
            (tmp_path / "toy_code" / f"{name}.py").write_text(textwrap.dedent(text))
        return provenance.code_hash(FAST), provenance.code_hash(SLOW)

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_code"]:
        del sys.modules[name]


def test_two_experiments_of_a_module_have_their_own_hashes(toy):
    fast, slow = toy()
    assert fast != slow
    changed = toy(helpers=TOY["helpers"].replace("2 * x", "x + x"))
    assert changed[0] != fast and changed[1] == slow
    changed = toy(methods=TOY["methods"].replace("x + 1", "x + 2"))
    assert changed[0] == fast and changed[1] != slow
    experiments = TOY["experiments"]
    changed = toy(experiments=experiments.replace("both(helpers", "(helpers"))
    assert changed[0] != fast and changed[1] == slow
    # what both use concerns both
    changed = toy(experiments=experiments.replace("return x\n", "return -x\n"))
    assert changed[0] != fast and changed[1] != slow
    assert toy() == (fast, slow)


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("helpers", "return 3 * x", "return 4 * x"),  # a function that nobody calls
        ("helpers", "return 2 * x", 'return 2 * x  # "twice"'),
        ("helpers", "def double(x):", 'def double(x):\n            "Twice."'),
        ("helpers", "def double(x):", "def double(x: int) -> int:"),
        ("helpers", "return 2 * x", "return (2\n                * x)"),
        ("methods", 'PARTS = {"a": 1}', 'PARTS = {"a": 2}'),  # imported, but not used
        ("methods", 'PARTS = {"a": 1}', 'PARTS = {"a": 1}\n        __all__ = ["solve"]'),
    ],
)
def test_what_shapes_no_number_does_not_count(toy, module, old, new):
    before = toy()
    assert old in TOY[module]
    assert toy(**{module: TOY[module].replace(old, new)}) == before


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("methods", "steps = 3", "steps = 4"),  # an attribute of a class
        ("methods", "return x + 1", "return x + 2"),  # what a method calls
        ("methods", "Solver.plain = plain", "Solver.plain = shift"),  # a patch
        ("methods", "            return x\n", "            return 2 * x\n"),  # what is patched in
        ("methods", "Solver.plain = plain", "Solver.plain = plain\n        print(PARTS)"),
        ("experiments", "solver(task)", "solver(task, 1)"),
    ],
)
def test_what_shapes_a_number_counts(toy, module, old, new):
    before = toy()
    assert old in TOY[module]
    changed = toy(**{module: TOY[module].replace(old, new)})
    assert changed[0] == before[0] and changed[1] != before[1]


def test_the_settings_behind_a_default_count(toy):
    before = toy()
    changed = toy(experiments=TOY["experiments"].replace("size: int = 1", "size: int = 2"))
    assert changed[0] != before[0] and changed[1] == before[1]


def test_what_only_carries_a_value_does_not_count(toy):
    methods = TOY["methods"].replace(
        "            steps = 3\n",
        """            steps = 3

            @carries
            def save(self, path):
                path.write_text("a")
""",
    )
    methods = "\n        from effdl_nb.files import carries\n" + methods.replace(
        "        def solve(x):",
        "        @carries\n        def store(x):\n            return shift(x)\n\n"
        "        def solve(x):\n            store(x)",
    )
    before = toy(methods=methods)
    for old, new in [
        ('write_text("a")', 'write_text("b")'),
        ("def save(self, path)", "def save(self, path, times=PARTS)"),
        ("return shift(x)", "return PARTS"),
    ]:
        assert methods.count(old) >= 1
        assert toy(methods=methods.replace(old, new, 1)) == before
    for old, new in [("            store(x)\n", ""), ("@carries\n        def store", "def store")]:
        changed = toy(methods=methods.replace(old, new))
        assert changed[0] == before[0] and changed[1] != before[1]


def test_moving_a_definition_leaves_the_hash(toy):
    before = toy()
    moved = TOY["methods"].replace("def shift(x):\n            return x + 1\n", "")
    assert moved != TOY["methods"]
    assert (
        toy(
            methods="\n        from .below import shift\n" + moved,
            below="def shift(x):\n    return x + 1\n",
        )
        == before
    )


def test_a_hidden_name_is_no_dependency(toy):
    local = """
        from . import helpers
        def fast(treble):
            double = [treble for treble in (1, 2)]
            return helpers.double(treble), double
        def slow(x): return x
        """
    fast, _ = toy(experiments=local)
    changed, _ = toy(experiments=local, helpers=TOY["helpers"].replace("3 * x", "4 * x"))
    assert changed == fast


@pytest.mark.parametrize(
    "module, text, words",
    [
        (
            "experiments",
            "from .helpers import halve\ndef fast(x): return halve(x)",
            "'halve' is not",
        ),
        ("experiments", "from . import helpers\ndef fast(x): return helpers.halve(x)", "'halve'"),
        (
            "experiments",
            "from .gone import f\ndef fast(x): return f(x)",
            "'toy_code.gone' is unknown",
        ),
        ("experiments", "x = 1", "'fast' is not defined in toy_code.experiments"),
    ],
)
def test_a_name_that_cannot_be_followed_is_an_error(toy, module, text, words):
    with pytest.raises(ValueError, match=words):
        toy(**{module: text})


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_a_fresh_process_finds_the_same_hash(seed):
    root = "effdl_nb.provenance:code_hash"
    code = f"from effdl_nb.provenance import code_hash; print(code_hash({root!r}))"
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == provenance.code_hash(root), done.stderr


def test_code_edited_after_loading_keeps_the_hash_of_what_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_lazy.py").write_text("def solve(x):\n    return x\n")
    (tmp_path / "toy_main.py").write_text(
        "import toy_lazy\ndef run(x):\n    return toy_lazy.solve(x)\n"
    )
    roots = ("toy_main:run", "toy_lazy:solve")
    before = provenance.code_hash(*roots)  # asked before either is loaded, as a lazy import is
    import toy_main

    (tmp_path / "toy_lazy.py").write_text("def solve(x):\n    return x + 1\n")
    assert provenance.code_when_loaded(*roots) == before != provenance.code_hash(*roots)
    assert toy_main.run(1) == 1
    for name in ("toy_main", "toy_lazy"):
        del sys.modules[name]


def test_the_package_itself_can_be_followed():
    folder = Path(provenance.__file__).parent
    for path in folder.rglob("*.py"):
        if path.name not in ("__init__.py", "_modidx.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            assert provenance.code_hash(".".join(parts))
