"What `effdl_nb.msunet` hands out by itself."

import subprocess
import sys
from pathlib import Path

import pytest

import effdl_nb.msunet as chapter

MODULES = sorted(path.stem for path in Path(chapter.__file__).parent.glob("[!_]*.py"))
FACES = sorted(chapter.__all__)


def run(code):
    "The last line that a fresh interpreter prints."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2]


def test_faces_are_listed_and_come_from_their_modules():
    assert {"micronet_score", "save_packed", "load_packed"} <= set(FACES) <= set(dir(chapter))
    for face in FACES:
        assert getattr(chapter, face).__module__ == f"effdl_nb.msunet.{chapter._FACES[face]}"
    with pytest.raises(AttributeError, match="no attribute 'score_of_nothing'"):
        _ = chapter.score_of_nothing


def test_no_module_bears_the_name_of_a_face():
    assert not {*FACES} & {*MODULES}


def test_importing_every_module_replaces_no_face():
    imports = "".join(f"import effdl_nb.msunet.{name}\n" for name in MODULES)
    code = f"{imports}m = effdl_nb.msunet\nprint(all(callable(getattr(m, f)) for f in {FACES}))"
    assert run(code) == "True"


def test_the_package_alone_pulls_in_nothing():
    code = "import sys, effdl_nb.msunet as m; dir(m); print('torch' in sys.modules)"
    assert run(code) == "False"
    code = "import sys; from effdl_nb.msunet import msunet; print(sorted(sys.modules))"
    assert "'effdl_nb.msunet.network'" in run(code) and "'effdl_nb.msunet.packing'" not in run(code)
