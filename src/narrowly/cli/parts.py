"""Progress over work of several parts: one display per part, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from narrowly.cli.progress import StepProgress


class PartsProgress:
    """Show one display per part of the work; a context manager with `on_step(what, done, total)`.

    Args:
        name: that stands in front of every part; empty for none.
    """

    def __init__(self, name: str = "") -> None:
        self._name, self._what = name, ""
        self._shown: StepProgress | None = None

    def __enter__(self) -> PartsProgress:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._close()

    def on_step(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done of a part."""
        from narrowly.cli.progress import StepProgress

        if what != self._what:
            self._close()
            self._what = what
            self._shown = StepProgress(f"{self._name}: {what}" if self._name else what).__enter__()
        if self._shown is not None:
            self._shown.on_step(done, total)

    def _close(self) -> None:
        if self._shown is not None:
            self._shown.__exit__(None, None, None)
        self._shown = None
