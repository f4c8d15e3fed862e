"""From the checkout to the pages that Sphinx reads.

The tree of pages is that of the repository, so every relative link between notebooks and Markdown
files leads where it leads in the checkout. What exists only here: a page per folder and per module,
and the dissertation item by item.
"""

import ast
import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import items
import nbformat
import pandas as pd

from effdl_nb import spec, tabular
from effdl_nb.files import atomic_write
from effdl_nb.records import results_frame

CHAPTERS = {
    "01_foundations": "Foundations",
    "02_msunet": "MSUNet",
    "03_deepaa": "Deep AutoAugment",
    "04_condensation": "Dataset condensation",
    "05_reproduction": "Tables and figures",
    "06_command": "The command",
    "07_budget": "What it costs",
}
CHAPTERS_OF = {2: "MSUNet", 3: "Deep AutoAugment", 4: "Dataset condensation"}
# caption of the map -> pages
MAP = {
    "Results": (
        "RESULTS",
        "reports/FINDINGS",
        "reports/COSTS",
        "values",
        "looks",
        "dissertation",
    ),
    "Chapters": tuple(f"nbs/{folder}/index" for folder in CHAPTERS),
    "Library": ("api/index",),
    "Project": (
        "docs/guide",
        "docs/architecture",
        "CONTRIBUTING",
        "STYLE",
        "CHANGELOG",
    ),
}
FILES = ("LICENSE", "CITATION.cff", "nbs/images/overview.png")
EXECUTED = ("quick",)  # profiles of which executed notebooks are shown
_DIRECTIVE = re.compile(r"^#\| *(\S+)(?: +(.*?))? *$", re.MULTILINE)
_WIDGET = "application/vnd.jupyter.widget-view+json"


def write(path: Path, text: str):
    "Write a page unless it stands there: Sphinx reads what is newer than its last build."
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")


def _outputs(cell) -> list:
    "The outputs of a cell that a page can show: no progress bars, no widgets."
    kept = []
    for output in cell.outputs:
        if output.get("name") == "stderr" or _WIDGET in output.get("data", {}):
            continue
        kept.append(output)
    return kept


def _shown(cell) -> list:
    "A cell as the page shows it, behind the mark that links lead to; nothing of a hidden one."
    directives = dict(_DIRECTIVE.findall(cell.source))
    tags = cell.metadata.get("tags", [])
    mark = nbformat.v4.new_raw_cell(f'<span class="mark" id="cell-{cell.id}"></span>')
    mark.id, mark.metadata["format"] = f"m{cell.id}"[:64], "text/html"
    if cell.cell_type != "code":
        return [mark, cell] if items.cited(cell.source, items.items()) else [cell]
    if "hide" in directives or "default_exp" in directives or "injected-parameters" in tags:
        return []
    cell.source = _DIRECTIVE.sub("", cell.source).strip("\n")
    cell.outputs = _outputs(cell)
    if "echo:" in directives:
        cell.metadata["tags"] = ["remove-input"]
    if "export" not in directives:
        return [cell]
    cell.metadata["tags"] = ["exported"]
    return [mark, cell]


def shown_notebook(
    notebook: nbformat.NotebookNode,
    above: str,  # from the notebook's folder to the root: "../.."
    profile: str = "",  # that it was executed at
) -> nbformat.NotebookNode:
    "A notebook as a page: without directives and hidden cells, with a link to its module."
    module = re.search(
        r"^#\| *default_exp +(\S+)", "\n".join(c.source for c in notebook.cells), re.MULTILINE
    )
    cells = [one for cell in notebook.cells for one in _shown(cell)]
    notes = []
    if module:
        name = f"effdl_nb.{module[1]}"
        page = f"[`{name}`]({above}/api/{name}.md)"
        notes.append(f"Exported as {f'`{name}`' if name.endswith('__main__') else page}.")
    if profile:
        notes.append(f"Executed at profile `{profile}`.")
    if notes:
        note = nbformat.v4.new_markdown_cell(" ".join(notes))
        note.id = "where"
        kinds = [cell.cell_type for cell in cells]
        cells.insert(kinds.index("markdown") + 1, note)
    notebook.cells = cells
    notebook.metadata = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return notebook


def executed(root: Path, reports: Path, key: str) -> tuple[Path, str]:
    "The newest form of a table's notebook: as executed at a profile, else as it is committed."
    for profile in EXECUTED:
        path = reports / profile / "notebooks" / f"{key}.ipynb"
        if path.exists():
            return path, profile
    return root / "nbs" / "05_reproduction" / f"{key}.ipynb", ""


def write_notebooks(root: Path, reports: Path, target: Path):
    "Write every notebook below nbs/, and a page per folder."
    for folder, title in CHAPTERS.items():
        names = sorted(path.stem for path in (root / "nbs" / folder).glob("*.ipynb"))
        for name in names:
            path, profile = root / "nbs" / folder / f"{name}.ipynb", ""
            if folder == "05_reproduction":
                path, profile = executed(root, reports, name)
            notebook = shown_notebook(nbformat.read(path, as_version=4), "../..", profile)
            write(target / "nbs" / folder / f"{name}.ipynb", nbformat.writes(notebook))
        write(target / "nbs" / folder / "index.md", toctree(title, _ordered(folder, names)))


def _ordered(folder: str, names: list[str]) -> list[str]:
    "Notebooks in reading order; tables and figures in the dissertation's."
    if folder != "05_reproduction":
        return names
    return [key for key in items.tables() if key in names]


def toctree(title: str, names: list[str], caption: str = "", hidden: bool = False) -> str:
    "A page that lists others."
    options = "".join(
        f":{key}: {value}\n"
        for key, value in (("caption", caption), ("maxdepth", "1"), ("hidden", hidden))
        if value
    ).replace(": True\n", ":\n")
    lines = "\n".join(names)
    return f"# {title}\n\n" * bool(title) + f"```{{toctree}}\n{options}\n{lines}\n```\n"


def write_documents(root: Path, target: Path):
    "Write the Markdown pages of the repository; README is the front page, with the map."
    front = (root / "README.md").read_text(encoding="utf-8")
    for folder in CHAPTERS:
        front = front.replace(f"](nbs/{folder})", f"](nbs/{folder}/index.md)")
    maps = [toctree("", list(names), caption=head, hidden=True) for head, names in MAP.items()]
    write(target / "index.md", "\n".join([front, *maps]))
    for name in (page for pages in MAP.values() for page in pages):
        if (root / f"{name}.md").exists():
            write(target / f"{name}.md", (root / f"{name}.md").read_text(encoding="utf-8"))
    for name in FILES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)


def write_reference(root: Path, target: Path):
    "Write a page per module; Sphinx fills it from docstrings and the comments of parameters."
    modules = items.module_files(root / "effdl_nb")
    sources = {
        name: re.search(r"File to edit: (?:\.\./)+(nbs/\S+\.ipynb)\.", path.read_text("utf-8"))[1]
        for name, path in modules.items()
    }
    modules = {name: modules[name] for name in sorted(modules, key=sources.get)}  # as they are read
    for name, source in sources.items():
        write(
            target / "api" / f"{name}.md",
            # the map, which every page repeats, names the library's index alone
            f"---\norphan: true\n---\n# {name}\n\nA module of the [library](index.md), derived "
            f"and tested in [{Path(source).stem}](../{source}).\n\n"
            f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n",
        )
    words = [
        f"| [`{name}`]({name}.md) | {ast.get_docstring(ast.parse(path.read_text('utf-8')))} |"
        for name, path in modules.items()
    ]
    table = "| module | what it holds |\n|---|---|\n" + "\n".join(words) + "\n"
    write(target / "api" / "index.md", f"# Library\n\n{table}")


def _code(definition: items.Definition) -> str:
    "A definition with a link to its page in the reference, or to its cell."
    cell = f"nbs/{definition.notebook.removesuffix('.ipynb')}.html#cell-{definition.cell}"
    page = f"api/{definition.module}.html#{definition.module}.{definition.name}"
    link = page if definition.shown else cell
    return f'<a href="{link}"><code>{definition.name}</code></a> (<a href="{cell}">cell</a>)'


def _rows(key: str, row_keys: list[str]) -> str:
    "How many rows of a table measure an item; which, where the pointer rests."
    table = items.tables()[key]
    labels = "; ".join(table.rows[row].label for row in row_keys)
    count = "all rows" if len(row_keys) == len(table.rows) else f"{len(row_keys)} rows"
    link = f'<a href="nbs/05_reproduction/{key}.html">Table {table.number}</a>'
    return f'{link} (<span title="{html.escape(labels)}">{count}</span>)'


def _committed(root: Path, key: str) -> str:
    "Where rows of a table are committed."
    counts = [
        (folder.parent.name, len(list((folder / key).glob("*.json"))))
        for folder in sorted((root / "reports").glob("*/rows"))
    ]
    return ", ".join(f"{profile} ({count} rows)" for profile, count in counts if count)


def _entry(root: Path, item: str, entry: items.Entry, titles: dict[str, str]) -> str:
    "The section of one item."
    keys = {f"{t.kind.capitalize()} {t.number}": key for key, t in items.tables().items()}
    key = keys.get(item)
    words = [
        f'<a href="nbs/{path.removesuffix(".ipynb")}.html#cell-{cell}">{titles[path]}</a>'
        for path, cell in entry.words.items()
        if not path.startswith("05_")
    ]
    code = [_code(definition) for definition in sorted(set(entry.code))]
    lines = [f"({items.anchor(item)})=", f"### {item}", ""]
    if key:
        lines += [f"[{items.tables()[key].title}](nbs/05_reproduction/{key}.ipynb)", ""]
    lines.append(f"- **In words:** {', '.join(words) or 'nowhere'}")
    lines.append(f"- **In code:** {', '.join(code) or 'cited by none'}")
    if key and items.tables()[key].kind == "table":
        lines.append(f"- **Committed rows:** {_committed(root, key) or 'none'}")
    elif not key:
        rows = [_rows(table, found) for table, found in entry.measured.items()]
        lines.append(f"- **Measured by:** {', '.join(rows) or 'no row'}")
    return "\n".join(lines) + "\n"


def _titles(root: Path) -> dict[str, str]:
    "The title of every notebook."
    titles = {}
    for path in (root / "nbs").glob("0*/*.ipynb"):
        first = nbformat.read(path, as_version=4).cells[0].source
        titles[path.relative_to(root / "nbs").as_posix()] = first.partition("\n")[0].strip("# ")
    return titles


def write_dissertation(root: Path, target: Path):
    "Write the dissertation item by item, and the same as JSON for the links."
    entries, titles = items.index(root), _titles(root)
    items.add_rows(entries)
    parts = [
        "# The dissertation, item by item",
        "",
        "Every numbered equation, statement, table and figure: the notebooks that name it, the "
        "code that cites it, and the rows whose measured code reaches that code.",
        "",
    ]
    for kind in items.KINDS:
        chosen = {item: entry for item, entry in entries.items() if item.startswith(kind)}
        parts.append(f"## {kind}s\n")
        parts += [_entry(root, item, entry, titles) for item, entry in chosen.items()]
    write(target / "dissertation.md", "\n".join(parts))
    write(target / "items.json", json.dumps(list(entries)))


# What a picture shows: title, where it is derived, and words.
LOOKS = {
    "ternary": (
        "The threshold of a ternary layer",
        "nbs/02_msunet/01_ternary.ipynb",
        "The second convolution of a ConvNet-3 of width 32, trained for ten epochs on the sample, "
        "and then made ternary without training on (Equations 2.1-2.3). Weights in the band "
        "become zero, the others plus or minus one scale. The scale keeps the deviation of the "
        "weights, not their product with the inputs: the second error is that of the best scale.",
    ),
    "policy": (
        "The layers of a searched policy",
        "nbs/03_deepaa/16_search.ipynb",
        "Eight training images and what the policy of the front page makes of them, layer by "
        "layer: below each the operation that this layer drew for it.",
    ),
    "spectrum": (
        "What k(t) keeps over an expert's life",
        "nbs/04_condensation/15_iatm.ipynb",
        "The same convolution after every epoch: the share of its output's energy in the leading "
        "components (Eq 4.4), and k(t), the fewest that hold a share t/T of it (Eq 4.11). One "
        "component holds most of it, so k(t) opens late.",
    ),
}


def _look(name: str, look: dict) -> str:
    "A picture with its slider, which shows itself where scripts run."
    title, source, words = LOOKS[name]
    frames = json.dumps({"frames": look["frames"], "start": look["start"]}).replace("</", "<\\/")
    return (
        f"## {title}\n\n{words} [Where it is derived]({source}).\n\n"
        f'<div class="look" id="{name}">{look["svg"]}'
        f'<div class="control" hidden><input type="range" min="0" aria-label="{title}"> '
        f"<output>{look['frames'][look['start']]['label']}</output></div>"
        f'<script type="application/json">{frames}</script></div>\n'
    )


def write_looks(target: Path):
    "Write the page of pictures that move."
    looks = json.loads((Path(__file__).parent / "looks.json").read_text(encoding="utf-8"))
    words = "Computed by `docs/site/looks.py`; nothing runs but a slider.\n"
    parts = ["# To look at", words, *(_look(name, look) for name, look in looks.items())]
    write(target / "looks.md", "\n".join(parts))


def values_table(root: Path, reports: Path) -> pd.DataFrame:
    "Every measured cell: committed profiles from the checkout, others from where results are."
    frames = [
        results_frame(name, reports if name in EXECUTED else root / "reports")
        for name in spec.PROFILES
    ]
    return pd.concat([frame for frame in frames if len(frame)])


def _value_lines(values: pd.DataFrame) -> Iterator[str]:
    "The lines of the table of values: a cell each, with seeds and provenance where one points."
    tables = items.tables()
    for (profile, key, row, column), lines in values.groupby(
        ["profile", "table", "row", "column"], sort=False
    ):
        table, last = tables[key], lines.iloc[-1]
        head, digits = table.columns[column], table.columns[column].digits
        if lines.value.isna().any():
            mean, seeds = str(last.text), ""
        else:
            mean = tabular.show_number(lines.value.mean(), digits)
            seeds = "; ".join(
                f"seed {seed}: " + ", ".join(f"{v:.{digits}f}" for v in part.value)
                for seed, part in lines.groupby("seed")
            )
        told = f"{seeds}\n{last.device}, torch {last.torch}, {last.data or 'no data'}, code "
        told += f"{last.code}, commit {str(last.commit)[:10]}, {last.started[:10]}"
        cells = [profile, CHAPTERS_OF[table.chapter], f"Table {table.number}"]
        cells += [table.rows[row].label, head.label]
        text = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        yield (
            f'<tr title="{html.escape(told)}">{text}<td class="number">{html.escape(mean)} '
            f"{html.escape(last.unit or '')}</td><td>{len(lines)}</td></tr>"
        )


def write_values(root: Path, reports: Path, target: Path):
    "Write the page with every measured value."
    heads = ("Profile", "Chapter", "Table", "Row", "Column", "Mean", "Values")
    selects = "".join(
        f'<select data-column="{i}" aria-label="{name}"><option value="">{name}</option></select>'
        for i, name in enumerate(heads[:3])
    )
    lines = "\n".join(_value_lines(values_table(root, reports)))
    head = "".join(f"<th>{name}</th>" for name in heads)
    write(
        target / "values.md",
        "# Every value\n\nEvery cell that was measured: point at a line for its seeds, device and "
        "code. Profile `quick` is there where this checkout has run it.\n\n"
        f'<div class="filters" data-table="values" hidden>{selects}'
        '<input type="search" placeholder="words" aria-label="words"> <output></output></div>\n'
        f'<div class="values"><table id="values"><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n'
        "</tbody></table></div>\n",
    )


def write_pages(root: Path, reports: Path, target: Path):
    "Write every page that Sphinx reads."
    write_documents(root, target)
    write_notebooks(root, reports, target)
    write_reference(root, target)
    write_looks(target)
    write_values(root, reports, target)
    write_dissertation(root, target)
