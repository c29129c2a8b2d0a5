from __future__ import annotations

from tests.integration.restore.conftest import backup
from tests.unit.observe.logging_fixture import restored_logging

__all__ = ["backup", "restored_logging"]
