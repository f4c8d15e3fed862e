"""The dissertation item by item: where its equations, tables and figures are cited and measured.

A citation is words that stand in notebooks and docstrings anyway: "Eq 4.12", "Equations 2.1-2.3",
"Tables 3.2, 3.3 and 3.5", "Theorem 1". No markup is needed, and none is added.
"""

import ast
import functools
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from effdl_nb import rows, spec
from effdl_nb.provenance import _walk

# What the dissertation numbers beside its tables and figures, which workflow/tables.yaml lists.
EQUATIONS = {2: 8, 3: 12, 4: 12}  # chapter -> how many
OTHERS = ("Listing 2.1", "Lemma 1", "Theorem 1", "Theorem 2", "Algorithm 4.1")
KINDS = ("Equation", "Table", "Figure", "Algorithm", "Listing", "Theorem", "Lemma")

_NUMBER = r"(?:\d\.(?:\d+|[A-C])\b|\d\b(?!\.\d))"
_BETWEEN = r"(?:,\s+and\s+|,\s+|\s+and\s+|\s+or\s+|\s+to\s+|-|–)"
_CITATION = re.compile(
    rf"\b(Equations?|Eqs?\.?|{'|'.join(f'{kind}s?' for kind in KINDS[1:])})\s+"
    rf"({_NUMBER}(?:{_BETWEEN}{_NUMBER})*)"
)
_PARTS = re.compile(rf"({_BETWEEN})?({_NUMBER})")


@functools.cache
def tables() -> dict[str, spec.Table]:
    "Every table and figure, read once."
    return spec.load_tables()


@functools.cache
def items() -> tuple[str, ...]:
    "Name every numbered item, in the order of chapters: Equation 2.1, ..., Table 4.4, Figure 4.7."
    numbered = [f"Equation {c}.{n}" for c, last in EQUATIONS.items() for n in range(1, last + 1)]
    return (*numbered, *OTHERS, *(f"{t.kind.capitalize()} {t.number}" for t in tables().values()))


def anchor(item: str) -> str:
    "The id of an item on its page: equation-4-12."
    return re.sub(r"[^a-z0-9]+", "-", item.lower())


@dataclass(frozen=True)
class Citation:
    "Some items cited at a place of a text: two numbers with a range between them cite all in it."

    start: int
    end: int
    items: tuple[str, ...]


def _kind(word: str) -> str:
    "Equation for Eq, Eqs and Equations; Table for Tables."
    word = word.rstrip(".").removesuffix("s")
    return "Equation" if word == "Eq" else word


def citations(text: str, known: Sequence[str]) -> Iterator[Citation]:
    "Find what a text cites of the known items; the first number is cited with its word."
    for match in _CITATION.finditer(text):
        kind, last = _kind(match[1]), None
        for part in _PARTS.finditer(match[2]):
            item = f"{kind} {part[2]}"
            if item not in known:
                continue
            span = [item]
            if last is not None and (part[1] or "").strip() in ("-", "–", "to"):
                span = known[known.index(last) + 1 : known.index(item) + 1]
                span = [one for one in span if one.startswith(kind)]
            number = match.start(2) + part.start(2)
            start = match.start() if last is None else number
            yield Citation(start, match.start(2) + part.end(2), tuple(span))
            last = item


def cited(text: str, known: Sequence[str]) -> set[str]:
    "Every item that a text cites."
    return {item for one in citations(text, known) for item in one.items}


@dataclass(frozen=True, order=True)
class Definition:
    "A definition of the library and the cell of the notebook that it is exported from."

    module: str
    name: str
    notebook: str  # below nbs/
    cell: str
    shown: bool  # on the page of its module: public, and with a docstring


def definitions(path: Path, module: str) -> Iterator[tuple[Definition, str]]:
    "The definitions of an exported module, each with all of its text."
    text = path.read_text(encoding="utf-8")
    lines, heads = text.splitlines(), {}
    public = getattr(importlib.import_module(module), "__all__", ())
    for number, line in enumerate(lines, 1):
        if match := re.fullmatch(r"# %% (?:\.\./)+nbs/(\S+\.ipynb) #(\w+)", line):
            heads[number] = match.groups()
    for node in ast.parse(text).body:
        names = [node.name] if hasattr(node, "name") else []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        cells = [number for number in heads if number < node.lineno]
        if names and cells and names != ["__all__"]:
            shown = hasattr(node, "name") and names[0] in public
            first = node.lineno
            while lines[first - 2].startswith("#") and first - 1 not in heads:
                first -= 1
            yield (
                Definition(module, names[0], *heads[max(cells)], shown),
                "\n".join(lines[first - 1 : node.end_lineno]),
            )


@dataclass
class Entry:
    "What is known of one item."

    words: dict[str, str] = field(default_factory=dict)  # notebook -> the cell that names it
    code: list[Definition] = field(default_factory=list)  # whose text cites it
    # table -> the rows whose measured code reaches one of those definitions
    measured: dict[str, list[str]] = field(default_factory=dict)


def module_files(package: Path) -> dict[str, Path]:
    "The exported modules: dotted name -> file."
    paths = sorted(path for path in package.rglob("*.py") if not path.name.startswith("_"))
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in paths
    }


def reached(roots: tuple[str, ...]) -> set[tuple[str, str]]:
    "The definitions behind some roots as (module, name), by the walk of the code hashes."
    walk = _walk(roots)
    return {
        (module.name, name)
        for module in filter(None, walk.modules.values())
        for name, statements in module.definitions.items()
        if any((module.name, statement) in walk.reached for statement in statements)
    }


def _measured_by(profile: str = "quick") -> dict[str, dict[tuple[str, str], set[str]]]:
    "The rows that run each definition: table -> (module, name) -> row keys."
    plans = spec.load_profile(profile)
    users: dict[str, dict[tuple[str, str], set[str]]] = {}
    for key, plan in plans.tables.items():
        users[key] = defaultdict(set)
        for row in plan.rows:
            if row in spec.implemented_rows(tables()[key]):
                units = rows.units_of(tables()[key], plan, row)
                for roots in {unit.roots for unit in units}:  # seeds and sizes share their code
                    for definition in reached(roots):
                        users[key][definition].add(row)
    return users


def _words(path: Path, known: Sequence[str]) -> dict[str, str]:
    "The cell of a notebook that names each item: the first behind the opening, else the opening."
    found: dict[str, str] = {}
    words = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    for cell in (*words[1:], words[0]):
        for item in cited(cell.source, known):
            found.setdefault(item, cell.id)
    return found


def index(root: Path) -> dict[str, Entry]:
    "Collect what cites every item."
    known = items()
    entries = {item: Entry() for item in known}
    for path in sorted((root / "nbs").glob("0*/*.ipynb")):
        for item, cell in _words(path, known).items():
            entries[item].words[path.relative_to(root / "nbs").as_posix()] = cell
    for module, path in module_files(root / "effdl_nb").items():
        for definition, text in definitions(path, module):
            for item in cited(text, known):
                entries[item].code.append(definition)
    return entries


def add_rows(entries: dict[str, Entry]):
    "Note the rows whose measured code reaches a definition that cites an item."
    for key, users in _measured_by().items():
        for entry in entries.values():
            used = {row for d in entry.code for row in users.get((d.module, d.name), ())}
            if used:
                entry.measured[key] = [row for row in tables()[key].rows if row in used]
