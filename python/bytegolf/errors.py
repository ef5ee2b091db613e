"""What ends a command in good order: a mistake of the caller, and a signal."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the caller that only a command can see; shown as one line, exit status 2."""


class Stopped(Exception):
    """A signal ended the work in good order; shown as one line, with the exit status for the signal."""

    def __init__(self, status: int, message: str) -> None:
        """130 for SIGINT, 143 for SIGTERM; the message says how to resume."""
        super().__init__(message)
        self.status = status
