"""Whatever a file or a variable holds, the answer is settings or our own error: never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbackupd.model.errors import ConfigurationError
from kbackupd.model.settings import DaemonSettings, RestoreSettings
from tests.unit.settings.files import MINIMAL, RESTORE, Files

_ODD = st.sampled_from(
    ["[", "]", "{", "}", ":", "- ", "\n", "  ", "${", "${A}", "null", "''", "&a", "*a", "!t", "0", "\t", "?", "|"]
)


def _outcome(load: Callable[[], DaemonSettings | RestoreSettings]) -> DaemonSettings | RestoreSettings | str:
    """The settings, or the refusal's message."""
    try:
        return load()
    except ConfigurationError as refused:
        return refused.message


@given(start=st.sampled_from([MINIMAL, RESTORE]), at=st.integers(0, 200), until=st.integers(0, 12), odd=_ODD)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_changed_at_random_loads_or_is_refused(files: Files, start: str, at: int, until: int, odd: str) -> None:
    text = (start[:at] + odd + start[at + until :]).encode("utf-8", "replace").decode()
    load = files.restore if start is RESTORE else files.daemon
    assert _outcome(lambda: load(text, {"A": odd}))


@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_json_in_a_variable_is_refused_under_its_name(files: Files, value: object) -> None:
    tiers = json.dumps([{"name": "a", "topics": value, "rpo": value, "rto": value}, value])
    outcome = _outcome(lambda: files.daemon(MINIMAL, {"KBACKUPD_TIERS": tiers}))
    assert "environment KBACKUPD_TIERS: tiers[" in str(outcome)
