"The site: citations become links, docstrings and notebooks pages; it needs no network."

import base64
import html
import importlib
import io
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from effdl_nb import report

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"


@pytest.fixture(scope="module", autouse=True)
def path_to_site():
    "The modules of docs/site, importable."
    sys.path.insert(0, str(SITE))
    yield
    sys.path.remove(str(SITE))
    for name in ("check", "items", "looks", "pages", "extension"):
        sys.modules.pop(name, None)


@pytest.fixture
def items(path_to_site, monkeypatch):
    monkeypatch.setenv("EFFDL_ROOT", str(ROOT))
    return importlib.import_module("items")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("(Eq 4.12)", ["Eq 4.12"]),
        ("Equations 2.1-2.3 derived", ["Equations 2.1", "2.3"]),
        ("Eqs 3.6 to 3.9.", ["Eqs 3.6", "3.9"]),
        ("Tables 2.1, 2.2, 2.3 and 2.A", ["Tables 2.1", "2.2", "2.3", "2.A"]),
        ("Theorems 1 and 2 of 3", ["Theorems 1", "2"]),
        ("Theorem 1 and 5 seeds", ["Theorem 1"]),
        ("Table 4.1\nand Figure 3.4", ["Table 4.1", "Figure 3.4"]),
        ("Table 9.1, Eq 4.13, Figure 5, a Table 4.10", []),
        ("Algorithm 4.1, line 15", ["Algorithm 4.1"]),
    ],
)
def test_words_that_cite_the_dissertation_are_found(items, text, wanted):
    cited = list(items.citations(text, items.items()))
    assert [text[one.start : one.end] for one in cited] == wanted


def test_a_range_cites_all_that_it_spans(items):
    assert items.cited("Eqs 3.6 to 3.9", items.items()) == {f"Equation 3.{n}" for n in range(6, 10)}
    assert items.cited("Tables 4.1-4.4", items.items()) >= {"Table 4.2", "Table 4.3"}


def test_every_item_of_the_dissertation_is_named_in_words_and_cited_by_code(items):
    entries = items.index(ROOT)
    assert len(entries) == 8 + 12 + 12 + 5 + 21 + 14
    assert [item for item, entry in entries.items() if not entry.words] == []
    assert [item for item, entry in entries.items() if not entry.code] == []


def test_an_equation_is_measured_by_the_rows_whose_code_reaches_it(items):
    entries = items.index(ROOT)
    items.add_rows(entries)
    rows = entries["Equation 4.12"].measured["table_4_1"]
    assert "iatm" in rows and not {"random", "dm", "dc"} & set(rows)
    assert not entries["Equation 2.3"].measured.keys() & {"table_3_2", "table_4_1"}


def test_a_citation_leads_to_the_cell_that_the_code_is_exported_from(items):
    entry = items.index(ROOT)["Equation 4.12"]
    code = {definition.name: definition for definition in entry.code}
    loss = code["iatm_loss"]
    assert loss.shown and loss.module == "effdl_nb.condensation.iatm"
    notebook = nbformat.read(ROOT / "nbs" / loss.notebook, as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.id.startswith(loss.cell)]
    assert "def iatm_loss" in cell.source


def test_a_notebook_becomes_a_page_without_directives_hidden_cells_and_machine_paths(items):
    pages = importlib.import_module("pages")
    v4 = nbformat.v4
    output = v4.new_output("stream", name="stderr", text="100%|####")
    cells = [
        v4.new_markdown_cell("# Title"),
        v4.new_code_cell("#| default_exp msunet.ternary"),
        v4.new_code_cell("#| hide\nsecret()"),
        v4.new_code_cell("reports = '/somewhere'", metadata={"tags": ["injected-parameters"]}),
        v4.new_code_cell("#| export\ndef f(): ...", outputs=[output]),
        v4.new_code_cell("#| echo: false\nshow()"),
    ]
    exported = cells[4].id
    page = pages.shown_notebook(v4.new_notebook(cells=cells), "../..", "quick")
    text = nbformat.writes(page)
    assert "#|" not in text and "secret" not in text and "somewhere" not in text
    assert "####" not in text and f'id=\\"cell-{exported}\\"' in text
    assert "../../api/effdl_nb.msunet.ternary.md" in text and "profile `quick`" in text
    assert page.cells[-1].metadata["tags"] == ["remove-input"]


def test_docstrings_are_plain_text_with_code_between_backticks(path_to_site):
    extension = importlib.import_module("extension")
    assert extension.as_rst("w_ and `a_b` |x| *y*") == r"w\_ and ``a_b`` \|x\| \*y\*"
    from effdl_nb.rows import summary

    lines = ["Summarise a cell."]
    extension.add_comments(None, "function", "summary", summary, None, lines)
    assert ":param values: seed -\\> the" not in lines[-1]
    assert any(line.startswith(":param spread:") for line in lines)
    assert lines[-1].startswith(":returns: mean, spread")


PAGE = """<html><head><link rel="stylesheet" href="a.css"></head><body>{}
<script>{}</script></body></html>"""


def test_a_page_that_needs_a_network_or_leads_nowhere_is_told(path_to_site, tmp_path):
    check = importlib.import_module("check")
    (tmp_path / "a.css").touch()
    body = '<h1 id="top">A</h1><a href="b.html#there">b</a><a href="https://example.org">out</a>'
    (tmp_path / "a.html").write_text(PAGE.format(body, ""))
    (tmp_path / "b.html").write_text(PAGE.format('<p id="there">', ""))
    assert check.broken_links(tmp_path) == []
    bad = '<img src="https://example.org/x.png"><a href="c.html">c</a><a href="a.html#x">x</a>'
    (tmp_path / "b.html").write_text(PAGE.format(bad, ""))
    assert check.broken_links(tmp_path) == [
        "a.html: b.html#there has no such place",
        "b.html loads https://example.org/x.png",
        "b.html: c.html is not there",
        "b.html: a.html#x has no such place",
    ]


@pytest.fixture(scope="module")
def browser(path_to_site):
    check = importlib.import_module("check")
    pytest.importorskip("websocket", reason="the extra `site` is not installed")
    program = check.find_browser()
    if program is None:
        pytest.skip(f"none of {', '.join(check.BROWSERS)} is installed")
    browser = check.Browser(program)
    yield browser
    browser.close()


def test_the_browser_sees_requests_errors_and_pages_wider_than_the_screen(browser, tmp_path):
    check = importlib.import_module("check")
    body = (
        '<meta name="viewport" content="width=device-width"><div style="width: 600px">wide</div>'
        '<img src="https://example.org/x.png"><span class="math">x</span>'
        '<ul id="search-results"><li>found</ul>'
    )
    (tmp_path / "a.css").touch()
    (tmp_path / "search.html").write_text(PAGE.format(body, "throw new Error('broken')"))
    problems = "\n".join(check.seen_problems(tmp_path, browser))
    assert "search.html is 2" in problems and "wider than 400" in problems
    assert "wider than 1280" not in problems and "1 formulas are not set" in problems
    assert "asks for https://example.org/x.png" in problems and "raises Uncaught" in problems


def test_source_is_the_cell_that_derives_it(path_to_site):
    extension = importlib.import_module("extension")
    info = {"module": "effdl_nb.msunet.ternary", "fullname": "StraightThrough.forward"}
    link = extension.source_cell("py", info)
    assert link.startswith("../nbs/02_msunet/01_ternary.html#cell-")
    assert extension.source_cell("py", info | {"fullname": "absent"}) is None


def test_pictures_start_as_their_frames_say_and_frames_name_their_parts(path_to_site):
    looks = json.loads((SITE / "looks.json").read_text())
    pages = importlib.import_module("pages")
    assert looks.keys() == pages.LOOKS.keys()
    for look in looks.values():
        for frame in look["frames"]:
            for name in frame["parts"]:
                assert f'data-part="{name}"' in look["svg"]
        for attributes in look["frames"][look["start"]]["parts"].values():
            for key, value in attributes.items():
                shown = f">{html.escape(value)}<" if key == "text" else f'{key}="{value}"'
                assert shown in look["svg"]


def test_pictures_obey_the_laws_of_what_they_show(path_to_site):
    looks = json.loads((SITE / "looks.json").read_text())
    facts = {name: [frame["facts"] for frame in look["frames"]] for name, look in looks.items()}
    zeros = [fact["zeros"] for fact in facts["ternary"]]
    assert zeros[0] == 0 and zeros == sorted(zeros) and zeros[-1] > 0.9
    assert all(fact["least"] <= fact["error"] + 1e-9 for fact in facts["ternary"])
    ranks = [fact["k"] for fact in facts["spectrum"]]
    assert ranks[0] == 1 and ranks == sorted(ranks) and ranks[-1] == 32
    assert [fact["layer"] for fact in facts["policy"]] == [0, 1, 2, 3]


def pixels(uri: str) -> bytes:
    "The pixels of an image in a URI."
    data = base64.b64decode(uri.partition("base64,")[2])
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_the_policy_of_the_picture_is_the_one_that_is_committed(path_to_site):
    looks = importlib.import_module("looks")
    kept = json.loads((SITE / "looks.json").read_text())["policy"]
    made = looks.policy_look(ROOT / "docs" / "overview" / "policy.json")
    for mine, theirs in zip(made["frames"], kept["frames"], strict=True):
        for name, attributes in mine["parts"].items():
            if name.startswith("name"):
                assert attributes == theirs["parts"][name]
            else:
                one, other = (pixels(f["parts"][name]["href"]) for f in (mine, theirs))
                assert one == other


@pytest.fixture
def moving(items, tmp_path) -> Path:
    "The pages of pictures and of values, bare, with the site's script."
    pages = importlib.import_module("pages")
    pages.write_looks(tmp_path)
    pages.write_values(ROOT, tmp_path, tmp_path)
    for name in ("looks", "values"):
        body = (tmp_path / f"{name}.md").read_text()
        script = '<script defer src="look.js"></script><meta name="viewport" content="width=400">'
        (tmp_path / f"{name}.html").write_text(f"<html><head>{script}</head>{body}</html>")
    shutil.copy(SITE / "static" / "look.js", tmp_path)
    return tmp_path


def test_a_slider_moves_the_parts_of_its_picture(browser, moving):
    browser.open((moving / "looks.html").as_uri())
    note = "document.querySelector('#ternary [data-part=note]').textContent"
    before = browser.ask(note)
    browser.ask(
        "(() => { const r = document.querySelector('#ternary input'); r.value = 0;"
        "r.dispatchEvent(new Event('input')); })()"
    )
    assert browser.ask(note).startswith("zeros 0%") and not before.startswith("zeros 0%")
    assert browser.ask("document.querySelector('#ternary output').textContent") == "alpha 0.00"
    assert browser.ask("document.querySelectorAll('.control[hidden]').length") == 0
    assert list(browser.complaints()) == []


def test_the_values_are_filtered_by_a_column_and_by_words(browser, moving):
    values = importlib.import_module("pages").values_table(ROOT, moving)
    laptop = values[(values.profile == "laptop") & (values.table == "table_4_1")]
    wanted = laptop[laptop.row == "random"]
    browser.open((moving / "values.html").as_uri())
    lines = browser.ask("document.querySelectorAll('#values tbody tr').length")
    shown = "document.querySelectorAll('#values tbody tr:not([hidden])').length"
    assert lines == browser.ask(shown) > 20
    browser.ask(
        "(() => { const f = document.querySelector('.filters'); f.querySelector('select').value ="
        " 'laptop'; f.querySelector('input').value = 'table 4.1 random';"
        "f.querySelector('input').dispatchEvent(new Event('input')); })()"
    )
    assert browser.ask(shown) == wanted.column.nunique() >= 1
    line = "document.querySelector('#values tbody tr:not([hidden])')"
    first = wanted[wanted.column == wanted.column.iloc[0]]
    assert f"{first.value.mean():.1f}" in browser.ask(f"{line}.textContent")
    assert re.search(r"seed 0: .*\n.*commit [0-9a-f]{10}", browser.ask(f"{line}.title"))
    assert list(browser.complaints()) == []


def test_a_report_needs_no_network_and_fits_a_phone(browser, tmp_path, monkeypatch):
    check = importlib.import_module("check")
    monkeypatch.setenv("EFFDL_ROOT", str(ROOT))
    shutil.copytree(ROOT / "reports" / "laptop" / "rows", tmp_path / "laptop" / "rows")
    notebook = nbformat.read(ROOT / "nbs" / "02_msunet" / "01_ternary.ipynb", as_version=4)
    (tmp_path / "laptop" / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "laptop" / "notebooks" / "table_2_3.ipynb")
    report.write_report("laptop", tmp_path)
    page = tmp_path / "laptop"
    assert check.broken_links(page) == []
    problems = check.seen_problems(page, browser, word=None)
    assert [p for p in problems if not p.startswith("tables/")] == []  # these are parts of pages
    browser.open((page / "notebooks" / "table_2_3.html").as_uri())
    assert browser.ask("document.querySelectorAll('math').length") > 20
    browser.open((page / "index.html").as_uri())
    seen = "getComputedStyle(document.querySelector('#table_2_3 .effdl-table {}')).display"
    for width, wide, narrow in ((1280, "block", "none"), (400, "none", "block")):
        browser.resize(width)
        assert browser.ask(seen.format(".wide")) == wide
        assert browser.ask(seen.format(".narrow")) == narrow
