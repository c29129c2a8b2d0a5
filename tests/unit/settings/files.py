"""Small configurations, and the refusal of wrong ones, for the tests of this directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kbackupd.model.settings import DaemonSettings, RestoreSettings
from kbackupd.settings import load_daemon_settings, load_restore_settings
from kbackupd.settings.refusal import RefusedConfigurationError

MINIMAL = """\
backup_id: main
source:
  bootstrap_servers: [kafka-1:9092]
storage:
  type: s3
  s3: {bucket: my-kafka-backups}
"""

RESTORE = """\
restore:
  source: {path: "s3://my-kafka-backups/production", backup_id: main}
  target: {bootstrap_servers: [kafka-restore:9092]}
"""


class Files:
    """Writes configurations into a directory and loads them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, text: str, name: str = "kbackupd.yaml") -> Path:
        path = self._directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def daemon(self, text: str, environ: Mapping[str, str] | None = None) -> DaemonSettings:
        return load_daemon_settings(self.write(text), environ or {})

    def restore(self, text: str, environ: Mapping[str, str] | None = None) -> RestoreSettings:
        return load_restore_settings(self.write(text, "restore.yaml"), environ or {})

    def refusal(self, text: str, environ: Mapping[str, str] | None = None) -> RefusedConfigurationError:
        """Why `text` is refused: as a restore's configuration if it is one, else as the daemon's."""
        load = self.restore if text.startswith("restore:") else self.daemon
        with pytest.raises(RefusedConfigurationError) as refused:
            load(text, environ)
        return refused.value

    def problems(self, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """The problems of `text`, without the directory's name."""
        return [str(problem).replace(f"{self._directory}/", "") for problem in self.refusal(text, environ).problems]
