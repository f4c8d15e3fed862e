"""Sphinx, taught three things: comments of parameters, citations of the dissertation, plain text.

A docstring of this library is plain text with code between backticks, and a parameter's meaning is
the comment behind it. Words that cite the dissertation ("Eq 4.12") become links to its item.
"""

import functools
import importlib.util
import json
import re
import shutil
from pathlib import Path

import items
from docutils import nodes
from fastcore.docments import docments

# What formulas need of MathJax: the program, its fonts and the packages it loads on demand.
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")
_QUOTED = re.compile(r"`+[^`]+`+")


def as_rst(text: str) -> str:
    "Plain text with code between backticks as reStructuredText."
    parts, end = [], 0
    for match in _QUOTED.finditer(text):
        parts.append(re.sub(r"([\\*|_])", r"\\\1", text[end : match.start()]))
        parts.append(f"``{match[0].strip('`')}``")
        end = match.end()
    parts.append(re.sub(r"([\\*|_])", r"\\\1", text[end:]))
    return "".join(parts)


def add_comments(app, what, name, thing, options, lines):
    "Show a docstring as the plain text that it is, and below it the comments of the parameters."
    lines[:] = [as_rst(line) for line in lines]
    if what not in ("function", "method", "class"):
        return
    try:
        comments = docments(thing, returns=True)
    except (TypeError, OSError, SyntaxError):  # made while it runs: it has no source
        return
    lines.append("")
    for parameter, comment in comments.items():
        if comment:
            head = ":returns:" if parameter == "return" else f":param {parameter}:"
            lines.append(f"{head} {as_rst(' '.join(str(comment).split()))}")


@functools.cache
def _cells(module: str) -> dict[str, items.Definition]:
    "The definitions of a module by name."
    path = Path(importlib.util.find_spec(module).origin)
    return {one.name: one for one, _ in items.definitions(path, module)}


def source_cell(domain: str, info: dict) -> str | None:
    "Where the source of a definition stands: its cell, seen from a page of the reference."
    cell = _cells(info["module"]).get(info["fullname"].partition(".")[0])
    return cell and f"../nbs/{cell.notebook.removesuffix('.ipynb')}.html#cell-{cell.cell}"


def _is_prose(text: nodes.Text) -> bool:
    "Whether a text may hold a link: not in code, formulas, titles or another link."
    node = text.parent
    while node is not None:
        if isinstance(node, nodes.literal | nodes.literal_block | nodes.math | nodes.math_block
                      | nodes.title | nodes.reference | nodes.raw | nodes.comment):  # fmt: skip
            return False
        node = node.parent
    return True


def link_citations(app, doctree, docname):
    "Turn the words that cite the dissertation into links."
    known = json.loads((Path(app.srcdir) / "items.json").read_text(encoding="utf-8"))
    if docname == "dissertation":
        return
    page = app.builder.get_relative_uri(docname, "dissertation")
    for text in [t for t in doctree.findall(nodes.Text) if _is_prose(t)]:
        plain, parts, end = text.astext(), [], 0
        for one in items.citations(plain, known):
            words = plain[one.start : one.end]
            link = nodes.reference("", words, refuri=f"{page}#{items.anchor(one.items[-1])}")
            parts += [nodes.Text(plain[end : one.start]), link]
            end = one.end
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(plain[end:])])


def copy_mathjax(app, error):
    "Copy what formulas need to the site, and nothing else of MathJax."
    package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    for name in MATHJAX if error is None else ():
        source = package / "static" / "mathjax" / name
        target = Path(app.outdir) / "_static" / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def setup(app):
    "Register with Sphinx."
    app.connect("autodoc-process-docstring", add_comments)
    app.connect("doctree-resolved", link_citations)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
