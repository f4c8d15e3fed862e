"""Papermill's command as every table and figure needs it: quick to start, and safe beside others.

Papermill reads notebooks with nbformat, which imports jsonschema, which imports rfc3987_syntax if
it is there, to check IRIs; and that one compiles a grammar for two seconds. The schema of notebooks
asks for no IRI, so here it is not there.

Jupyter chooses free ports of this machine and lets the kernel open them a second later; of two
kernels that start at once, one then finds its port taken and dies. Here a kernel is spoken to
through files in a folder of its own, where no other looks.
"""

import os
import sys
import tempfile

# the import raises ImportError, as if the package were not installed
sys.modules["rfc3987_syntax"] = None
sys.modules["pyarrow"] = None  # papermill would look for remote file systems with it

from jupyter_client.manager import AsyncKernelManager  # noqa: E402
from papermill.__main__ import papermill  # noqa: E402
from papermill.engines import NBClientEngine, papermill_engines  # noqa: E402


class Engine(NBClientEngine):
    "Papermill's own engine, with kernels behind files where the system has such sockets."

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **options):
        "Execute a notebook; the folder of its sockets goes with it."
        if os.name == "nt":
            return super().execute_managed_notebook(nb_man, kernel_name, **options)
        with tempfile.TemporaryDirectory(prefix="kernel-", ignore_cleanup_errors=True) as folder:

            class Kernel(AsyncKernelManager):
                "A kernel behind files of this folder."

                def __init__(self, **more):
                    super().__init__(transport="ipc", ip=os.path.join(folder, "k"), **more)

            return super().execute_managed_notebook(
                nb_man, kernel_name, kernel_manager_class=Kernel, **options
            )


papermill_engines.register(None, Engine)
papermill()
