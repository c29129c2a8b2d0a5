"""Configuration: YAML under environment variables, judged once and handed on as the plain values of `model.settings`.

The rim of pydantic: nothing of it, and no secret, leaves this package.
"""

from kbackupd.settings.effective import EffectiveValue, show
from kbackupd.settings.load import load_daemon_settings, load_restore_settings
from kbackupd.settings.reference import reference_markdown

__all__ = [
    "EffectiveValue",
    "load_daemon_settings",
    "load_restore_settings",
    "reference_markdown",
    "show",
]
