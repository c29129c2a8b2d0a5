"""What the demo shows while it works: one line per stage, alive on a terminal, plain and sparse in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

_LOG_EVERY_SECONDS = 10.0


class Stage:
    """One step being done; `update` says how far it is, as often as one likes and from any thread."""

    def __init__(self, title: str, console: Console, status: Status | None) -> None:
        self._title = title
        self._console = console
        self._status = status
        self._began = self._last_logged = time.monotonic()
        self._lock = threading.Lock()
        self.detail = ""

    def update(self, detail: str) -> None:
        """Replace the detail behind the title; the last one stays when the stage is done."""
        with self._lock:
            self.detail = detail
            now = time.monotonic()
            if self._status is not None:
                elapsed = f"{now - self._began:.0f} s"
                self._status.update(f"[bold]{escape(self._title)}[/bold]  {escape(detail)}  [dim]{elapsed}[/dim]")
            elif now - self._last_logged >= _LOG_EVERY_SECONDS:
                self._last_logged = now
                self._console.print(f"  … {self._title}: {detail}", markup=False, highlight=False)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


class Screen:
    """Prints stages to `console` one after the other."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Show `title` as going on; on leaving the block as done, or as failed if it raises."""
        if self.console.is_terminal:
            with self.console.status(f"[bold]{escape(title)}[/bold]") as status:
                stage = Stage(title, self.console, status)
                try:
                    yield stage
                except BaseException:
                    self._finished("[red]✗[/red]", title, stage)
                    raise
        else:
            stage = Stage(title, self.console, None)
            try:
                yield stage
            except BaseException:
                self._finished("✗", title, stage)
                raise
        self._finished("[green]✓[/green]", title, stage)

    def say(self, text: str) -> None:
        """A line of its own; rich markup is understood."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def _finished(self, mark: str, title: str, stage: Stage) -> None:
        detail = f"  [dim]{escape(stage.detail)}[/dim]" if stage.detail else ""
        self.say(f"{mark} {escape(title)}{detail}  [dim]{stage.seconds:.1f} s[/dim]")
