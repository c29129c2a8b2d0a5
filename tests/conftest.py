"""What holds for every test: nothing depends on how fast the machine is, on luck, or on how the tests were started."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# A fifth of a second per example, Hypothesis's own limit, is exceeded whenever a neighbour takes the processor.
_ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples every time: what is found by luck in somebody else's run helps nobody there.
settings.register_profile("repeatable", _ANY_MACHINE, derandomize=True)
# New ones: HYPOTHESIS_PROFILE=search make unit, whenever there is time to look at what turns up.
settings.register_profile("search", _ANY_MACHINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A shell that starts us in the background has SIGINT ignored, and whatever we start inherits that: tests that
# interrupt a process with it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
