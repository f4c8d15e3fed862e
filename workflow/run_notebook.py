"""Papermill's command, in a fifth of its time to start: every table and figure begins with it.

Papermill reads notebooks with nbformat, which imports jsonschema, which imports rfc3987_syntax if
it is there, to check IRIs; and that one compiles a grammar for two seconds. The schema of notebooks
asks for no IRI, so here it is not there.
"""

import sys

# the import raises ImportError, as if the package were not installed
sys.modules["rfc3987_syntax"] = None
sys.modules["pyarrow"] = None  # papermill would look for remote file systems with it

from papermill.__main__ import papermill  # noqa: E402

papermill()
