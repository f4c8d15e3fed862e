"What an import loads: each in a fork of one fresh interpreter, for torch alone takes seconds."

import json
import subprocess
import sys
from collections.abc import Collection

CODE = """
import importlib, json, os, sys

def loaded(name):
    reading, writing = os.pipe()
    if not os.fork():
        importlib.import_module(name)
        with open(writing, "w") as pipe:
            json.dump(sorted(sys.modules), pipe)
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        return json.load(pipe)

asked = json.loads(sys.argv[1])
for name in asked["first"]:
    importlib.import_module(name)
print(json.dumps({name: loaded(name) for name in asked["names"]}))
"""


def loaded_by(
    names: Collection[str],  # of modules
    first: Collection[str] = (),  # what all of them may load; imported before the forks
) -> dict[str, set[str]]:
    "What is in sys.modules after the import of each."
    asked = json.dumps({"names": sorted(names), "first": sorted(first)})
    command = [sys.executable, "-W", "ignore", "-c", CODE, asked]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return {name: set(modules) for name, modules in json.loads(done.stdout).items()}
