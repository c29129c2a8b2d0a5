"""An event loop whose time is a ManualClock: sleeping costs nothing, and every run with one seed is the same run.

When no task can go on, time jumps to the next timer; when there is no timer either, nothing will ever happen again, and
that is an error, not a hang. What threads would do is done in place, a turn later. A run may be killed after a number
of turns, as SIGKILL does it: nothing the killed program would have done afterwards reaches the outside.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kbackupd.model.clock import ManualClock

T = TypeVar("T")


class NothingCanHappen(Exception):
    """Every task waits for another one: a wedge."""


class Killed(Exception):
    """The run was ended from outside after its number of turns."""


class _Selector(selectors.DefaultSelector):
    clock: ManualClock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise NothingCanHappen
        if timeout > 0:
            self.clock.advance(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: ManualClock, *, turns: int | None = None) -> None:
        selector = _Selector()
        selector.clock = clock
        super().__init__(selector)
        self._virtual_clock = clock
        self._turns_left = turns
        self.turns = 0

    def time(self) -> float:
        return self._virtual_clock.monotonic()

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # the base takes *args unchecked
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except BaseException as error:  # noqa: BLE001  a thread hands every failure to the one who waits for it
                future.set_exception(error)

        self.call_soon(work)
        return future

    def _run_once(self) -> None:
        self.turns += 1
        if self._turns_left is not None and self.turns > self._turns_left:
            self.stop()
            return
        super()._run_once()  # type: ignore[misc]  # private to asyncio, not in its stubs

    def immortal(self) -> None:
        self._turns_left = None


def run(
    main: Coroutine[Any, Any, T],
    *,
    clock: ManualClock,
    turns: int | None = None,
    on_kill: Callable[[], None] | None = None,
    seed: int = 0,
) -> T:
    """Run `main` in virtual time.

    Args:
        turns: kill it after so many turns of the loop.
        on_kill: called at that moment, to cut the program off from the world before its tasks are cleaned up.

    Raises:
        Killed: it did not come to its end in time.
        NothingCanHappen: it waits for what nobody will do.
    """
    random.seed(seed)
    loop = VirtualLoop(clock, turns=turns)
    asyncio.set_event_loop(loop)
    task = loop.create_task(main)
    killed = False
    try:
        try:
            return loop.run_until_complete(task)
        except RuntimeError as error:
            if "stopped before Future completed" not in str(error):
                raise
            killed = True
            if on_kill is not None:
                on_kill()
        raise Killed
    finally:
        loop.immortal()
        left = asyncio.all_tasks(loop)
        for one in left:
            one.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        if killed and task.done() and not task.cancelled():
            task.exception()
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
