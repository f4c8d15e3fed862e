"""Where Snakemake's jobs run: which executor its options name, in whatever way they name it."""

import argparse
from pathlib import Path

import yaml

PROFILES = Path(__file__).parent / "profiles"  # Snakemake's own: options by executor


def executor_of(options: list[str]) -> str | None:
    """Name the executor of Snakemake's options; None for jobs on this machine.

    It is told by --executor X, --executor=X, -e X or -eX, or by the file of a --profile or
    --workflow-profile. Options on the command line come before files, as in Snakemake.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-e", "--executor")
    parser.add_argument("--profile")
    parser.add_argument("--workflow-profile")
    found, _ = parser.parse_known_args(options)
    named = [found.executor, _in_profile(found.workflow_profile), _in_profile(found.profile)]
    executor = next((name for name in named if name), None)
    return None if executor == "local" else executor


def _in_profile(folder: str | None) -> str | None:
    "The executor that a folder of Snakemake options names."
    if not folder or folder == "none":
        return None
    for name in ("profile.yaml", "config.yaml", "config.v8+.yaml"):
        path = Path(folder) / name
        if path.exists():
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            return content.get("executor") if isinstance(content, dict) else None
    return None


def profile_of(executor: str) -> Path:
    "Find the options that an executor needed. Raises ValueError naming those there are."
    if (PROFILES / executor / "config.yaml").exists():
        return PROFILES / executor
    known = ", ".join(sorted(path.parent.name for path in PROFILES.glob("*/config.yaml")))
    raise ValueError(f"executor {executor!r} has no options in workflow/profiles; known: {known}")
