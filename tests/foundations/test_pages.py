"README, RESULTS and the pages around them: short, made by code, with links that lead somewhere."

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


def test_readme_and_results_are_made_from_their_notebooks():
    done = subprocess.run(
        [sys.executable, ROOT / "workflow" / "readme.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_is_not_measured_here_stays_as_it_was_shown(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "workflow")
    readme = importlib.import_module("readme")
    said = readme.UNMEASURED + " at profile quick"
    cells = [
        nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", text=old)])
        for source, old in ((f"print({said!r})", "a table"), ("print('a new one')", "an old one"))
    ]
    path = tmp_path / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    readme.execute(path)
    executed = nbformat.read(path, as_version=4).cells
    assert [readme.shown(*cell.outputs) for cell in executed] == [
        "```\na table\n```",
        "```\na new one\n```",
    ]


def test_the_readme_is_short_and_begins_with_what_to_do():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(" ".join(lines).split()) <= 700
    for command in ("make reproduce", "make test"):
        assert next(n for n, line in enumerate(lines, 1) if line.startswith(command)) < 40
    findings = [line for line in lines if line.startswith("| ")][1:]
    assert 1 <= len(findings) <= 12 and all(line.count("|") == 4 for line in findings)
    pictures = re.findall(r"!\[.+\]\((.+)\)", "\n".join(lines))
    assert len(pictures) == 1 and (ROOT / pictures[0]).stat().st_size < 300_000


def test_the_picture_shows_what_is_committed():
    spec = importlib.util.spec_from_file_location("picture", ROOT / "workflow" / "picture.py")
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    lines = picture.compared().set_index("method")
    for row, label in {"mtt": "MTT", "iatm": "IATM"}.items():
        record = json.loads((ROOT / f"reports/laptop/rows/table_4_1/{row}.json").read_text())
        assert lines.ours[label] == record["cells"][0]["mean"]
    assert lines.dissertation["MTT"] == 46.3  # corrected, not the printed 43.6
    panels = [axis.get_title(loc="left") for part in picture.draw().subfigs for axis in part.axes]
    assert len(panels) == 3 and all(panels)


def test_results_show_laptop_before_quick_and_every_table_that_was_measured():
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert 0 < text.index("## Profile laptop") < text.index("## Profile quick")
    laptop, quick = text.split("## Profile quick")
    for folder in sorted((ROOT / "reports" / "laptop" / "rows").iterdir()):
        rows = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        if not any(row["cells"] for row in rows):
            continue  # no row has all of its seeds yet
        key = folder.name
        assert f"#### Table {key.removeprefix('table_').replace('_', '.').upper()}: " in laptop
    for number in ("2.2", "2.3", "2.A", "3.2", "3.6", "3.A", "4.1", "4.2", "4.4", "4.A", "4.B"):
        assert f"#### Table {number}: " in quick


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_links_between_notebooks_lead_somewhere():
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in NOTEBOOKS
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "markdown"
        for link in re.findall(r"\]\(([\w./-]+\.(?:ipynb|md|cff))\)", "".join(cell["source"]))
        if not (path.parent / link).exists()
    ]
    assert broken == []


def test_the_walk_of_a_number_names_values_that_are_in_its_row():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walk = text.split("## The walk of one number")[1].split("\n## ")[0]
    row = (ROOT / "reports/laptop/rows/table_4_a/mtt.json").read_text(encoding="utf-8")
    values = re.findall(r"`((?:\d+\.\d+|cifar10:\w+))`", walk)
    assert len(values) >= 12
    assert [value for value in values if value not in row] == []
    cells = {cell["column"]: cell for cell in json.loads(row)["cells"]}
    cell = cells["cifar10_ipc1_half"]
    assert f"{cell['mean']:.1f} ± {cell['spread']:.1f} %" in walk


def test_the_architecture_has_a_place_for_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = text.split("### Rooms")[1].split("\n### ")[0]
    paths = (ROOT / "effdl_nb").rglob("*.py")
    names = {path.stem for path in paths if not path.name.startswith("_")}
    assert sorted(name for name in names if f"`{name}`" not in rooms) == []


def test_the_code_of_the_guide_runs():
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    library = text.split("## As a library")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", library, re.DOTALL)
    names = {}
    exec(compile(block, "docs/guide.md", "exec"), names)
    assert 0.01 < names["score"] < 0.012 and 10 < names["accuracy"] < 60


def test_urls_of_the_project_are_those_of_its_settings():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"git_url = {project['urls']['Repository']}" in (ROOT / "settings.ini").read_text()
    for url in project["urls"].values():
        path = url.removeprefix(project["urls"]["Repository"]).removeprefix("/blob/main/")
        assert path in ("", "/issues") or (ROOT / path).exists(), url
