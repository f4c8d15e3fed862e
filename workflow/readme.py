#!/usr/bin/env python
"""Write README.md and RESULTS.md from the notebooks nbs/index.ipynb and nbs/results.ipynb.

    python workflow/readme.py            # executes both first
    python workflow/readme.py --check    # whether the pages are what the stored outputs make

Rows of profile laptop are committed, those of quick are not: in a checkout where quick was not
measured, its tables stay as they were shown, with their date and device.
"""

import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import nbdev_clean

from effdl_nb.files import atomic_write

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index", "RESULTS.md": "results"}
UNMEASURED = "Nothing has been measured"
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def from_root(text: str) -> str:
    "The text with its links, which start at nbs/, starting at the top of the checkout."
    return LINK.sub(lambda link: f"]({posixpath.normpath(posixpath.join('nbs', link[1]))})", text)


def shown(output) -> str:
    "One stored output as Markdown; nothing of what a cell printed as progress."
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"]
    text = data.get("text/plain", output["text"] if output.get("name") == "stdout" else "")
    return f"```\n{text.rstrip()}\n```" if text else ""


def page(name: str) -> str:
    """A notebook as Markdown.

    Cells that begin with `#| hide` are left out, `#| echo: false` leaves out the code only."""
    parts = [f"<!-- Written by `make readme` from nbs/{name}.ipynb; edit that. -->"]
    for cell in nbformat.read(ROOT / "nbs" / f"{name}.ipynb", as_version=4).cells:
        directives = re.findall(r"^#\| *(\S.*?) *$", cell.source, re.MULTILINE)
        if "hide" in directives:
            continue
        if cell.cell_type == "markdown":
            parts.append(from_root(cell.source))
            continue
        code = re.sub(r"^#\|.*\n", "", cell.source, flags=re.MULTILINE).strip()
        if "echo: false" not in directives:
            parts.append(f"```python\n{code}\n```")
        parts += [shown(output) for output in cell.outputs]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def execute(path: Path) -> None:
    "Execute a notebook in place; a cell that finds nothing measured keeps its stored outputs."
    notebook = nbformat.read(path, as_version=4)
    stored = [cell.get("outputs") for cell in notebook.cells]
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, kernel_name="python3", resources=where).execute()
    for cell, outputs in zip(notebook.cells, stored, strict=True):
        if outputs and any(UNMEASURED in shown(output) for output in cell.outputs):
            cell.outputs = outputs
    with atomic_write(path) as part:
        nbformat.write(notebook, part)


def main(arguments: list[str]) -> str | None:
    "Write or check both pages; what is wrong."
    if "--check" not in arguments:
        for name in PAGES.values():
            execute(path := ROOT / "nbs" / f"{name}.ipynb")
            nbdev_clean(path)
    pages = {path: page(name) for path, name in PAGES.items()}
    if "--check" in arguments:
        old = [path for path, text in pages.items() if (ROOT / path).read_text("utf-8") != text]
        return f"{' and '.join(old)} must be written anew: run `make readme`" if old else None
    if UNMEASURED in pages["RESULTS.md"]:
        return "RESULTS.md would show nothing: run `make reproduce` first"
    for path, text in pages.items():
        with atomic_write(ROOT / path) as part:
            Path(part).write_text(text, encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
