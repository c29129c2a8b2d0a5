"""What holds for every test: nothing depends on how fast the machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A fifth of a second per example, Hypothesis's own limit, is exceeded whenever a neighbour takes the processor.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
