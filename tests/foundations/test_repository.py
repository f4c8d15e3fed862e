"""The repository keeps its own promises: one environment in three files, modules that are what the
notebooks export, an installable package."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from importing import loaded_by

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
REPRODUCTION = sorted((ROOT / "nbs" / "05_reproduction").glob("*.ipynb"))


def requirement(text: str) -> tuple[str, str]:
    "Name and version range of a requirement."
    name, versions = re.fullmatch(
        r"([A-Za-z0-9_.-]+?)((?:[<>=!~]=?|===).*)?", text.strip()
    ).groups()
    return re.sub(r"[-_.]+", "-", name).lower(), versions or ""


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_lists_what_pyproject_does(project):
    listed = dict(
        map(
            requirement,
            yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"],
        )
    )
    wanted = dict(
        map(
            requirement,
            project["dependencies"] + sum(project["optional-dependencies"].values(), []),
        )
    )
    assert listed == wanted


def test_every_dependency_has_its_reason():
    lines = [
        line
        for line in (ROOT / "environment.yml").read_text().splitlines()
        if re.match(r"\s{6}- ", line)
    ]
    assert lines and not [line for line in lines if not re.search(r"  # \S+", line)]


def test_constraints_lock_every_dependency_and_name_no_host(project):
    text = (ROOT / "constraints.txt").read_text()
    locked = dict(line.split(" ;")[0].split("==") for line in text.splitlines())
    from packaging.specifiers import SpecifierSet

    for name, versions in map(
        requirement, project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    ):
        key = next((k for k in locked if requirement(k)[0] == name), None)
        assert key is not None, f"{name} is not locked"
        assert SpecifierSet(versions).contains(locked[key], prereleases=True), (
            name,
            versions,
            locked[key],
        )
    assert "://" not in text and "--" not in text


def test_settings_ini_and_package_agree(project):
    import configparser

    import effdl_nb

    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    assert settings["DEFAULT"]["version"] == effdl_nb.__version__
    assert settings["DEFAULT"]["description"] == project["description"]
    assert f">={settings['DEFAULT']['min_python']}" == project["requires-python"]
    assert "tags" in settings["DEFAULT"]["allowed_cell_metadata_keys"]


def test_modules_are_what_the_notebooks_export(tmp_path):
    for name in ("nbs", "effdl_nb"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(
        [Path(sys.executable).with_name("nbdev_export")],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    here, there = (
        {
            p.relative_to(r): p.read_text()
            for p in (r / "effdl_nb").rglob("*.py")
            if p.name != "_modidx.py"  # nbdev's index, which git ignores
        }
        for r in (ROOT, tmp_path)
    )
    assert sorted(here) == sorted(there)
    assert [str(p) for p in here if here[p] != there[p]] == []


@pytest.mark.parametrize("path", REPRODUCTION, ids=lambda p: p.stem)
def test_reproduction_notebooks_keep_their_parameters_and_export_nothing(path):
    cells = json.loads(path.read_text())["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    source = "".join(tagged[0]["source"])
    assert {line.split(":")[0] for line in source.splitlines()} == {"profile", "reports"} | (
        set() if path.stem.startswith("figure_") else {"rows", "seeds"}
    )
    assert 'profile: str = "quick"' in source
    assert not any("#| export" in "".join(cell["source"]) for cell in cells)


def load_scaffold():
    "workflow/scaffold.py, which holds the standard cells."
    spec = importlib.util.spec_from_file_location("scaffold", ROOT / "workflow" / "scaffold.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells_of(path: Path) -> list[tuple[str, str]]:
    "Kind and source of every cell, the notebook's own key written as KEY."
    cells = json.loads(path.read_text())["cells"]
    kinds = [
        "parameters" if "parameters" in cell["metadata"].get("tags", []) else cell["cell_type"]
        for cell in cells
    ]
    sources = ["".join(cell["source"]).replace(path.stem, "KEY") for cell in cells]
    return list(zip(kinds, sources, strict=True))


@pytest.mark.parametrize("kind, least", [("table", 18), ("figure", 14)])
def test_the_standard_cells_of_all_reproduction_notebooks_are_identical(kind, least):
    standard = getattr(load_scaffold(), kind.upper())
    paths = [path for path in REPRODUCTION if path.stem.startswith(kind)]
    assert len(paths) >= least
    for path in paths:
        shared = [cell for cell in cells_of(path) if cell in standard]
        assert shared == list(standard), f"{path.stem}: another order, or a standard cell differs"


def test_nbdev_clean_keeps_the_parameters_tag(tmp_path):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copytree(ROOT / "nbs" / "05_reproduction", tmp_path / "nbs")
    path = tmp_path / "nbs" / "table_4_1.ipynb"
    subprocess.run(
        [Path(sys.executable).with_name("nbdev_clean"), "--fname", path],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert any(
        "parameters" in cell["metadata"].get("tags", [])
        for cell in json.loads(path.read_text())["cells"]
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_notebooks_are_small_and_titled(path):
    assert path.stat().st_size < 300_000
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    assert re.match(r"# \S.*\n\n> \S", first), (
        f"{path} does not open with a title and a one-line subtitle"
    )


def modules() -> list[str]:
    paths = [
        p.relative_to(ROOT).with_suffix("")
        for p in (ROOT / "effdl_nb").rglob("*.py")
        if not p.name.startswith("_")
    ]
    return sorted(".".join(p.parts) for p in paths)


def imported_by(module: str) -> set[str]:
    "Modules of `effdl_nb` that a module imports itself."
    import ast

    found = set()
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in modules()}


GROUND = [  # what chapters stand on, in the order in which it is read
    "effdl_nb.files",
    "effdl_nb.artefacts",
    "effdl_nb.places",
    "effdl_nb.settings",
    "effdl_nb.checked",
    "effdl_nb.shell",
    "effdl_nb.prepared",
    "effdl_nb.registry",
    "effdl_nb.decoding",
    "effdl_nb.folders",
    "effdl_nb.sample",
    "effdl_nb.archives",
    "effdl_nb.data",
    "effdl_nb.opening",
    "effdl_nb.networks",
    "effdl_nb.augmentation",
    "effdl_nb.machine",
    "effdl_nb.together",
    "effdl_nb.optimization",
    "effdl_nb.accuracy",
    "effdl_nb.checkpoints",
    "effdl_nb.training",
    "effdl_nb.provenance",
    "effdl_nb.spec",
]
SHOWN = [  # what makes tables, figures and the page of rows
    "effdl_nb.tabular",
    "effdl_nb.evidence",
    "effdl_nb.verdicts",
    "effdl_nb.findings",
    "effdl_nb.plots",
    "effdl_nb.report",
    "effdl_nb.backlog",
]
FOUNDATIONS = [*GROUND, "effdl_nb.rows", "effdl_nb.row_file", "effdl_nb.study", *SHOWN]


@pytest.mark.parametrize("module", modules())
def test_who_may_import_whom(module):
    for other in imported_by(module):
        if module.startswith("effdl_nb.command."):
            continue  # it loads what is asked for, each part when it is
        assert not other.startswith("effdl_nb.command."), f"{module} imports {other}"
        if module.startswith("effdl_nb.budget."):
            continue  # it knows the settings of all chapters
        assert not other.startswith("effdl_nb.budget."), f"{module} imports {other}"
        if module in FOUNDATIONS:
            assert other in FOUNDATIONS[: FOUNDATIONS.index(module)], f"{module} imports {other}"
        else:
            chapter = module.rpartition(".")[0]
            shows = module.rpartition(".")[2] in ("analysis", "figures")
            ground = FOUNDATIONS if shows else GROUND  # what measures knows no rows
            assert other in ground or other.startswith(chapter + "."), f"{module} imports {other}"
    ground = ("files", "settings", "checked", "shell", "machine", "provenance", "spec", "rows")
    known = {*(f"effdl_nb.{name}" for name in ground), *SHOWN}
    assert module not in SHOWN or imported_by(module) <= known, "the report knows rows only"


@pytest.mark.parametrize("chapter, most", [("msunet", 7), ("deepaa", 10), ("condensation", 7)])
def test_a_chapter_has_few_floors_and_no_circle(chapter, most):
    below = {
        module: {other for other in imported_by(module) - {module} if f".{chapter}." in other}
        for module in modules()
        if f".{chapter}." in module
    }

    def floors(module: str, above: tuple[str, ...] = ()) -> int:
        assert module not in above, f"a circle: {' -> '.join((*above, module))}"
        return 1 + max((floors(other, (*above, module)) for other in below[module]), default=0)

    assert len(below) >= 7 and max(map(floors, below)) <= most


def test_running_needs_neither_nbdev_nor_papermill_nor_snakemake():
    listed = ", ".join(repr(m) for m in modules())
    code = (
        f"import sys, importlib\nfor m in ({listed},): importlib.import_module(m)\n"
        "print([m for m in ('nbdev', 'papermill', 'snakemake', 'nbconvert', 'IPython', 'pytest') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd="/"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


LEFT_OUT = [  # a module, and what it does without
    ("effdl_nb.files", "torch"),
    ("effdl_nb.spec", "torch"),
    ("effdl_nb.rows", "torch"),
    ("effdl_nb.study", "torch"),
    ("effdl_nb.augmentation", "PIL"),
    ("effdl_nb.optimization", "safetensors"),
    ("effdl_nb.accuracy", "PIL"),
    ("effdl_nb.checkpoints", "PIL"),
    ("effdl_nb.training", "PIL"),
    ("effdl_nb.training", "torchvision"),
    ("effdl_nb.prepared", "PIL"),
    ("effdl_nb.folders", "torchvision"),
    ("effdl_nb.sample", "torchvision"),
    ("effdl_nb.archives", "torchvision"),
    ("effdl_nb.data", "torchvision"),
    ("effdl_nb.msunet.network", "torchvision"),
    ("effdl_nb.networks", "torchvision"),
    ("effdl_nb.condensation.experiments", "torchvision"),
    ("effdl_nb.training", "pandas"),
    ("effdl_nb.tabular", "torch"),
    ("effdl_nb.evidence", "matplotlib"),
    ("effdl_nb.plots", "torch"),
    ("effdl_nb.report", "torch"),
]


@pytest.mark.parametrize("first", ["", "torch"])
def test_a_module_pulls_in_only_what_it_needs(first):
    "Those that do without torch, and those that may have it."
    without = {module for module, absent in LEFT_OUT if absent in ("torch", "matplotlib")}
    cases = [case for case in LEFT_OUT if (case[0] in without) == (not first)]
    loaded = loaded_by({module for module, _ in cases}, [first] if first else [])
    assert [case for case in cases if case[1] in loaded[case[0]]] == []


def test_a_built_wheel_imports_without_the_development_tools(tmp_path):
    source, left_out = (
        tmp_path / "source",
        {".venv", ".git", ".snakemake", "reports", "build", "dist", "__pycache__"},
    )
    shutil.copytree(
        ROOT,
        source,
        ignore=lambda folder, names: [n for n in names if n in left_out or n.endswith(".egg-info")],
    )
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    subprocess.run(
        [
            Path(sys.executable).with_name("uv"),
            "pip",
            "install",
            "--quiet",
            "--offline",
            "--no-deps",
            "--target",
            target,
            wheel,
        ],
        check=True,
        capture_output=True,
    )
    # The wheel alone, beside the third-party packages of this environment, from another folder.
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import effdl_nb, effdl_nb.report; from effdl_nb.data import load\n"
        "print(effdl_nb.__file__, load('cifar10-sample').train.images.shape[0], "
        "effdl_nb.report.TEMPLATES.get_template('page.html').name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(target / "effdl_nb" / "__init__.py"), "5000", "page.html"]


def test_no_helper_of_the_tests_takes_the_name_of_an_installed_package():
    # tests/ is on the path of what the tests start: `executing` there hid a package of that name
    installed = set(packages_distributions()) | set(sys.stdlib_module_names)
    helpers = {path.stem for path in (ROOT / "tests").glob("*.py")}
    assert helpers and not helpers & (installed - {"conftest"})


def test_nothing_committed_names_a_registry_or_a_machine_and_no_pickle_is_read():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\0")
    if not any(listed):
        pytest.skip("not a git checkout")
    hosts = re.compile(r"https?://[a-z.]*(?:py" r"pi|npm" r"js|deb" r"ian|python" r"hosted)\.")
    unsafe = re.compile(r"pickle" r"\.load|weights_only" r"=False|allow_pickle" r"=True")
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in {".webp", ".png", ".svg", ".safetensors", ".pt"} or not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        assert not hosts.search(text), name
        assert not unsafe.search(text), name
