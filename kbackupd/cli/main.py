"""`kbackupd`: the root command. Parses, dispatches, and turns every failure into a message, a hint and an exit code.

Exit codes, everywhere: 0 ok · 1 a fault of kbackupd itself · 2 usage or configuration · 3 archive invalid ·
4 unreachable, denied or not writable · 5 refused, it would harm · 6 incomplete, or complete with declared gaps ·
7 fenced · 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from kbackupd import __version__
from kbackupd.cli.output import say
from kbackupd.model.errors import KbackupError, principal
from kbackupd.observe.logging import configure_logging, mask_text

VERBS: Final[tuple[str, ...]] = (
    "run",
    "restore",
    "offset-map",
    "offset-reset",
    "list",
    "describe",
    "groups",
    "validate",
    "dump",
    "rollup",
    "ctl",
    "config",
)
"""In the order of the help text. Each is a module of this package (`-` becomes `_`): one that exports `command` is a
verb, one that exports `app` has verbs of its own."""


class _Verbs(TyperGroup):
    """Imports a verb's module only when it is used: `ctl` must answer at once, and without a Kafka or S3 client."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"kbackupd.cli.{cmd_name.replace('-', '_')}")
        holder = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        if hasattr(module, "app"):
            holder.add_typer(module.app, name=cmd_name)
        else:
            holder.command(cmd_name)(module.command)
        return typer.main.get_group(holder).get_command(ctx, cmd_name)


app = typer.Typer(
    name="kbackupd",
    cls=_Verbs,
    help="Continuous, verifiable backup of Apache Kafka, and its restore.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kbackupd {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    with_traceback: Annotated[
        bool, typer.Option("--traceback", help="Print the Python traceback of whatever fails.")
    ] = False,
) -> None:
    """Continuous, verifiable backup of Apache Kafka, and its restore."""
    _Failure.with_traceback = with_traceback


class _Failure:
    """What the root options say about failures; read after the command's context is gone."""

    with_traceback = False


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: never returns, always exits with a code of the list above."""
    _Failure.with_traceback = False
    # What a verb logs goes to stderr, so that its output can be piped; `run` sets up its own logging over this.
    writer = configure_logging(format="console", level="warning", fd=2)
    try:
        app(args=arguments)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:  # noqa: BLE001  the last frame: whatever it is becomes a message and an exit code
        code = explain(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # `kbackupd … | head`: the reader had enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    writer.close()
    sys.exit(code)


def explain(error: BaseException) -> int:
    """Tell stderr what happened and what to do; the exit code."""
    cause = principal(error)
    if _Failure.with_traceback:
        traceback.print_exception(error)
    if isinstance(cause, KbackupError):
        _say(cause.message, cause.hint)
        return cause.exit_code
    if isinstance(cause, KeyboardInterrupt):
        return 130
    where = traceback.extract_tb(cause.__traceback__)[-1:]
    at = f" at {Path(where[0].filename).name}:{where[0].lineno}" if where else ""
    _say(
        f"unexpected {type(cause).__name__}{at}: {cause}",
        "this is a fault of kbackupd: kbackupd --traceback … shows where it happened; please report it with that",
    )
    return 1


def _say(message: str, hint: str) -> None:
    say([f"error: {mask_text(message)}", *([f"hint: {hint}"] if hint else [])])


if __name__ == "__main__":
    main()
