"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# tests are never timed: a busy machine must not fail one
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
