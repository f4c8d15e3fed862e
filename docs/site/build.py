#!/usr/bin/env python
"""Build the site: every notebook as a page, the library's reference, the dissertation item by item.

    python docs/site/build.py            # what `make site` runs: build/site/html/index.html

Notebooks are shown with the outputs that they store; a table or a figure that this checkout has
executed (reports/quick/notebooks) is shown as it was executed. A warning of Sphinx, such as a link
that leads nowhere, is an error.
"""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]


def main() -> int:
    "Write the pages and let Sphinx build them; its exit status."
    from pages import write_pages
    from sphinx.cmd.build import build_main

    root = HERE.parents[1]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=root / "build" / "site", help="folder to fill")
    words = "where results are (default: $EFFDL_REPORTS, else reports/)"
    reports = Path(os.environ.get("EFFDL_REPORTS") or root / "reports")
    parser.add_argument("--reports", type=Path, default=reports, help=words)
    options = parser.parse_args()
    source, html = options.out / "source", options.out / "html"
    write_pages(root, options.reports, source)
    arguments = ["-b", "html", "-q", "-W", "--keep-going", "-c", HERE]
    arguments += ["-d", options.out / "doctrees", source, html]
    status = build_main([str(argument) for argument in arguments])
    if status == 0:
        print(html / "index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
