"Let atheris alter a file, guided by the code that it reaches: guided.py READER RUNS"

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["effdl_nb"]):
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from faults.hostile import Outcome, plain
    from faults.readers import every_reader


def main(name: str, runs: int):
    "Alter and read, until a finding raises."
    folder = Path(tempfile.mkdtemp())
    reader = every_reader(folder)[name]
    path = folder / "altered" / name
    path.parent.mkdir()
    path.write_bytes(reader.whole)
    expected = repr(plain(reader.read(path)))
    seeds = folder / "seeds"
    seeds.mkdir()
    (seeds / "whole").write_bytes(reader.whole)

    def once(data: bytes):
        path.write_bytes(data)
        outcome = Outcome()
        outcome.note(path, reader, expected, False)
        if outcome.findings:
            raise RuntimeError(outcome.findings[0])

    limits = ["-rss_limit_mb=4096", "-timeout=120", f"-max_len={4 * len(reader.whole)}"]
    atheris.Setup([sys.argv[0], f"-runs={runs}", *limits, str(seeds)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
