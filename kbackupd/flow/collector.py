"""Python's search for garbage that refers to itself, kept away from what is large and stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG_OBJECTS, _YOUNG_ROUNDS, _NEVER = 10_000, 20, 1 << 30


@contextmanager
def making_what_stays() -> Iterator[None]:
    """While inside, only young objects are searched; what there is at the end is never searched again.

    By itself the collector looks through everything whenever a quarter as much came along: of opening an archive with
    a million runs that was two thirds of the processor time, to find nothing.
    """
    before = gc.get_threshold()
    gc.set_threshold(_YOUNG_OBJECTS, _YOUNG_ROUNDS, _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.freeze()
