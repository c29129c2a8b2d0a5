"""`kbackupd config check|show|reference`: is a configuration right, what does it come to, what is there to set."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kbackupd.cli.output import OutputFormat
from kbackupd.settings import reference_markdown, show

app = typer.Typer(name="config", no_args_is_help=True, help="Check, show and explain configuration files.")


ConfigPath = Annotated[
    Path,
    typer.Option("--config", envvar="KBACKUPD_CONFIG", help="kbackupd.yaml or restore.yaml", metavar="PATH"),
]


@app.command("check")
def check(config: ConfigPath) -> None:
    """Refuse a wrong file with every problem in it (exit 2), or say that it is right (exit 0). Contacts no server."""
    show(config, os.environ)
    print(f"{config}: ok")


@app.command("show")
def show_effective(
    config: ConfigPath,
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Print every value in force, secrets redacted, and where each was written."""
    values = show(config, os.environ)
    if output is OutputFormat.JSON:
        print(json.dumps([asdict(value) for value in values], indent=2, ensure_ascii=False))
        return
    lines = [(f"{value.key} = {value.value if value.value is not None else '(not set)'}", value) for value in values]
    width = min(max(len(line) for line, _ in lines), 72)
    for line, value in lines:
        print(f"{line:<{width}}  # {value.origin}")


@app.command("reference")
def reference() -> None:
    """Print the configuration reference (docs/configuration.md) as Markdown."""
    print(reference_markdown(), end="")
