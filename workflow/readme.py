#!/usr/bin/env python
"""Write README.md from nbs/index.ipynb: its words, its visible code and the outputs stored in it.

`make readme` executes the notebook first.
"""

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent


def readme() -> str:
    "The index notebook as Markdown, without cells marked `#| hide` or code `#| echo: false`."
    parts = ["<!-- Written by `make readme` from nbs/index.ipynb; edit that. -->"]
    for cell in nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4).cells:
        directives = re.findall(r"^#\| *(\S.*?) *$", cell.source, re.MULTILINE)
        if "hide" in directives:
            continue
        if cell.cell_type == "markdown":
            parts.append(re.sub(r"\]\((?!https?:|#)([^)]*\.ipynb)\)", r"](nbs/\1)", cell.source))
            continue
        if "echo: false" not in directives:
            parts.append(
                "```python\n"
                + re.sub(r"^#\|.*\n", "", cell.source, flags=re.MULTILINE).strip()
                + "\n```"
            )
        for output in cell.outputs:
            if "data" in output:
                data = output["data"]
                parts.append(
                    data["text/markdown"]
                    if "text/markdown" in data
                    else "```\n" + data["text/plain"] + "\n```"
                )
            elif output.get("name") == "stdout":
                parts.append("```\n" + output["text"].rstrip() + "\n```")
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        same = (ROOT / "README.md").read_text(encoding="utf-8") == readme()
        sys.exit(0 if same else "README.md is not what nbs/index.ipynb makes: run `make readme`")
    if "Nothing has been measured" in (text := readme()):
        sys.exit(
            "README.md opens with measured tables, and there are none here: run `make reproduce` "
            "first"
        )
    (ROOT / "README.md").write_text(text, encoding="utf-8")
