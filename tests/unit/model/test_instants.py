"""Instants as people write them, and what they write by mistake."""

from __future__ import annotations

import pytest

from kbackupd.model.instants import NotAnInstantError, parse_instant_ms


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1774310400000", 1_774_310_400_000),
        ("2026-03-24T00:00:00Z", 1_774_310_400_000),
        ("2026-03-24T01:00:00+01:00", 1_774_310_400_000),
        ("2026-03-23T19:00:00.001-05:00", 1_774_310_400_001),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_epoch_milliseconds_and_iso_8601_with_a_zone_are_the_same_instant(text: str, milliseconds: int) -> None:
    assert parse_instant_ms(text) == milliseconds


@pytest.mark.parametrize("fraction", ["0000001", "0001", "000999", "001"])
def test_a_fraction_of_a_millisecond_counts_as_the_next_one_so_that_comparisons_stay_exact(fraction: str) -> None:
    # Python keeps microseconds; what is finer is cut off before.
    expected = 1_774_310_400_000 if fraction == "0000001" else 1_774_310_400_001
    assert parse_instant_ms(f"2026-03-24T00:00:00.{fraction}Z") == expected


def test_seconds_are_refused_with_the_date_they_would_have_meant_and_the_value_probably_meant() -> None:
    with pytest.raises(NotAnInstantError) as refused:
        parse_instant_ms("1711234800")
    assert refused.value.message == (
        "'1711234800' is 2024-03-23T23:00:00.000Z if it is seconds, "
        "and 1970-01-20T19:20:34.800Z in the milliseconds that count here"
    )
    assert refused.value.hint == "1711234800000 was probably meant"


@pytest.mark.parametrize("text", ["2026-03-24T00:00:00", "2026-03-24"])
def test_a_time_without_a_zone_is_refused_unless_the_caller_says_which_zone_it_means(text: str) -> None:
    with pytest.raises(NotAnInstantError, match="names no time zone"):
        parse_instant_ms(text)
    assert parse_instant_ms(text, utc_if_naive=True) == 1_774_310_400_000


@pytest.mark.parametrize("text", ["", "yesterday", "171123480000", "17112348000000", "1e12", "-1", "٣" * 13, "1" * 400])
def test_anything_else_is_no_instant(text: str) -> None:
    with pytest.raises(NotAnInstantError):
        parse_instant_ms(text)
