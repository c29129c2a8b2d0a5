"""The examples of docs/format.md print what the document says they print."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "format.md"
PROMPT = "    $ "
MARK = "\x1e"


def examples() -> list[tuple[str, list[str]]]:
    """Every command of the examples with the lines it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for line in DOCUMENT.read_text(encoding="utf-8").partition("\n## Examples\n")[2].splitlines():
        if line.startswith(PROMPT):
            found.append((line.removeprefix(PROMPT), []))
        elif line.startswith("    "):
            found[-1][1].append(line.removeprefix("    "))
    return found


def run(commands: list[str], directory: Path) -> list[list[str]]:
    """What each command prints, all of them typed into one shell at the repository's root."""
    script = "\n".join(f"{command}\nprintf '{MARK}'" for command in commands)
    python = directory / "bin"
    python.mkdir()
    # A link would be taken for another installation, without this one's packages.
    (python / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (python / "python3").chmod(0o755)
    done = subprocess.run(
        ["sh", "-eu"],
        input=script,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [printed.splitlines() for printed in done.stdout.split(MARK)[:-1]]


def test_the_documents_examples_print_what_they_say(tmp_path: Path) -> None:
    said = examples()
    printed = run([command for command, _ in said], tmp_path)
    assert len(said) > 20
    assert [(command, lines) for (command, _), lines in zip(said, printed, strict=True)] == said
