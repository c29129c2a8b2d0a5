from __future__ import annotations

from tests.unit.observe.logging_fixture import restored_logging

__all__ = ["restored_logging"]
