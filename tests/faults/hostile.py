"Altered files, and what a reader makes of them: the right value, or an error that names the file."

import json
import os
import random
import resource
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from faults.readers import Reader, plain

from effdl_nb import checkpoints, files

EXTREMES = (None, True, -1, 0, 10**30, 1e308, -0.0, "", "x" * 5000, "../../x", "\x00", [], {})
EXTREMES += ([[]] * 50, {"a": {"a": {"a": 1}}}, 1 << 62, "1e999", ["\ud7ff"], 0.5)
SECONDS = 10.0
MEMORY = 512 << 20


def altered_bytes(draw: random.Random, whole: bytes) -> bytes:
    "A file with some bytes turned, cut, doubled, dropped, exchanged or added."
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        place, kind = draw.randrange(len(data) + 1), draw.randrange(8)
        end = min(len(data), place + draw.choice((1, 2, 4, 8, 64)))
        if kind <= 2 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            data[place:end] = bytes(draw.choice((0, 255, 127, 128)) for _ in range(end - place))
        elif kind == 5:
            del data[place:end]
        elif kind == 6:
            data[place:place] = data[place:end]
        else:
            data[place:place] = draw.choice(
                (b"[" * 3000, b"{", b"\x00", b'"', b"9" * 5000, b"\xff")
            )
    return bytes(data)


def altered_content(draw: random.Random, content):
    "A record of which a value is extreme, a key is gone or another one."
    if isinstance(content, dict) and content and draw.random() < 0.85:
        key = draw.choice(list(content))
        kind = draw.random()
        rest = {k: v for k, v in content.items() if k != key}
        if kind < 0.15:
            return rest
        if kind < 0.2:
            return rest | {f"{key}x": content[key]}
        return content | {key: altered_content(draw, content[key])}
    if isinstance(content, list) and content and draw.random() < 0.85:
        place = draw.randrange(len(content))
        return [*content[:place], altered_content(draw, content[place]), *content[place + 1 :]]
    return draw.choice(EXTREMES)


def _content(path: Path):
    "What a record, or the header of a file of tensors, says."
    if path.suffix in (".json", ".yaml"):
        if path.suffix == ".yaml":
            import yaml

            return yaml.safe_load(path.read_text())
        content = files.read_json(path)
        return {k: v for k, v in content.items() if k not in ("seal", "kept", "checksum")}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        words = json.loads(file.read(length))["__metadata__"][checkpoints._ENTRY]
    return json.loads(words[64:])["header"]


@dataclass
class Outcome:
    "What came of some altered files."

    inputs: int = 0
    errors: int = 0
    right: int = 0
    findings: list[str] = field(default_factory=list)

    def note(self, path: Path, reader: Reader, expected, resealed: bool):
        "Read one file and note what came of it."
        self.inputs += 1
        begin = time.process_time()  # a loaded machine is no finding
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = reader.read(path)
        except (ValueError, FileNotFoundError) as error:
            self.errors += 1
            named = type(error) is not UnicodeDecodeError and path.name in str(error)
            if not named or len(str(error)) > max(4000, 2 * path.stat().st_size):
                self.findings.append(f"{reader.name}: {type(error).__name__}: {error!s:.300}")
        except BaseException as error:
            self.findings.append(f"{reader.name}: {type(error).__name__}: {error!s:.300}")
        else:
            self.right += 1
            if reader.sealed and not resealed and repr(plain(value)) != expected:
                self.findings.append(f"{reader.name}: an altered file gave another value")
        if (spent := time.process_time() - begin) > SECONDS:
            self.findings.append(f"{reader.name}: {spent:.0f} s")


def attack(reader: Reader, folder: Path, inputs: int, seed: int) -> Outcome:
    "Read altered files; the last finding's file is kept."
    path, draw, outcome = folder / reader.name, random.Random(seed), Outcome()
    path.write_bytes(reader.whole)
    expected = repr(plain(reader.read(path)))
    content = _content(path) if reader.reseal else None
    for _ in range(inputs):
        before = len(outcome.findings)
        resealed = reader.reseal is not None and draw.random() < 0.5
        if resealed:
            try:
                reader.reseal(path, altered_content(draw, content))
            except (ValueError, TypeError, AttributeError, OverflowError):
                continue  # what no writer writes
        else:
            path.write_bytes(altered_bytes(draw, reader.whole))
        outcome.note(path, reader, expected, resealed)
        if len(outcome.findings) > before and (keep := os.environ.get("EFFDL_FINDINGS")):
            name = f"{len(os.listdir(keep)):03}-{reader.name}"
            (Path(keep) / name).write_bytes(path.read_bytes())
    return outcome


def forbid(folder: Path, findings: list[str]):
    "Note every program that is started, and every file that is written elsewhere."

    def hook(event: str, args: tuple):
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"):
            findings.append(f"{event}: {args!r:.200}")
        elif event == "open" and isinstance(args[0], (str, bytes)):
            writes = isinstance(args[1], str) and set("wax+") & set(args[1])
            place = os.path.abspath(os.fsdecode(args[0]))
            own = (str(folder), "/dev/", os.environ.get("EFFDL_FINDINGS", str(folder)))
            if writes and not place.startswith(own):
                findings.append(f"writes {place}")

    sys.addaudithook(hook)


def memory() -> int:
    "The most memory that this process has held, in bytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
