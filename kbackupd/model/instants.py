"""Instants as people write them: epoch milliseconds or ISO 8601, and never seconds by mistake."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from kbackupd.model.clock import iso

_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)
_EXAMPLE = "such as 2026-03-24T00:00:00Z or 1774310400000"


class NotAnInstantError(ValueError):
    """What was written, and in `hint` what was probably meant; the message quotes it with `repr`."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def parse_instant_ms(text: str, *, utc_if_naive: bool = False) -> int:
    """Milliseconds since the epoch; a finer fraction counts as the next millisecond.

    So `stamp >= written` and `stamp < written` are decided exactly for stamps of whole milliseconds.

    Args:
        utc_if_naive: a time without a zone is taken for UTC instead of being refused.

    Raises:
        NotAnInstantError: digits that are not milliseconds of any likely year (10 digits are seconds, and would be read
            as a day in January 1970), no date, or a time without a zone.
    """
    if re.fullmatch(r"\d{13}", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"\d+", text, re.ASCII):
        raise _of_digits(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise NotAnInstantError(f"{text!r} is not an instant", _EXAMPLE) from None
    if moment.tzinfo is None:
        if not utc_if_naive:
            raise NotAnInstantError(
                f"{text!r} names no time zone", f"{text}Z would be UTC" if "T" in text else _EXAMPLE
            )
        moment = moment.replace(tzinfo=UTC)
    return -((_EPOCH - moment) // _MILLISECOND)


def _of_digits(text: str) -> NotAnInstantError:
    if len(text) != 10:
        return NotAnInstantError(f"{text!r} has {len(text)} digits; epoch milliseconds have 13", _EXAMPLE)
    value = int(text)
    return NotAnInstantError(
        f"{text!r} is {iso(value * 1000)} if it is seconds, and {iso(value)} in the milliseconds that count here",
        f"{value * 1000} was probably meant",
    )
