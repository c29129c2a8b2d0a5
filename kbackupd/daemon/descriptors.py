"""How many files and sockets the process may have open at once: as many as it is allowed, and enough to work with.

Running out is met one request at a time, in whatever library happens to open the next socket or source file; a daemon
that cannot even start must be told why in one sentence.
"""

from __future__ import annotations

import contextlib
import resource

from kbackupd.model.errors import ConfigurationError

FEWEST = 64
"""Twenty stand from the start, sixteen connections may lead to the store, and four to each broker."""


def allow_descriptors() -> int:
    """Raise the limit of open files as far as an unprivileged process may; what it is then.

    Raises:
        ConfigurationError: too few to work with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems have a lower one of their own
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FEWEST:
        raise ConfigurationError(
            f"the process may have {soft} files and connections open, and needs {FEWEST} at the very least",
            hint="raise the limit of open files: LimitNOFILE= in a systemd unit, --ulimit nofile= for a container, "
            "ulimit -n in a shell; four for every broker come on top",
        )
    return soft
