"""The files of the study stand beside the package in a checkout; a built package brings them along.

Everything else about the build stands in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STUDY = ("config", "workflow", "nbs/05_reproduction")


class WithStudy(build_py):
    "Copy the study into the package, where `effdl reproduce` finds it without a checkout."

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in STUDY:
            target = Path(self.build_lib, "effdl_nb", "study_files", folder)
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".snakemake")
            shutil.copytree(folder, target, dirs_exist_ok=True, ignore=ignored)


setup(cmdclass={"build_py": WithStudy})
