"How Sphinx builds the site; docs/site/build.py writes the pages that it reads."

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from extension import source_cell as linkcode_resolve  # noqa: E402, F401

project = "effdl_nb"
author = "The effdl_nb authors"
copyright = "2026, the effdl_nb authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "extension",
]
default_role = "code"

# Notebooks are shown as they are stored; widgets would be loaded from a network.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath", "html_image"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
# RESULTS.md goes from chapters to tables without a heading between them.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
maximum_signature_line_length = 80

mathjax_path = "mathjax/tex-chtml.js"
html_theme = "furo"
html_title = "effdl_nb"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("look.js", {"defer": "defer"})]
html_copy_source = False
html_domain_indices = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
