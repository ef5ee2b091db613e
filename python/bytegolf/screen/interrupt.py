"""Ctrl-C during a run: the first asks for a checkpoint, the second leaves at once, even inside a long call of the core."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType, TracebackType


class Interrupts:
    """While entered, SIGINT and SIGTERM set `asked` instead of raising; a second one ends the process.

    Python runs signal handlers between bytecodes only, so a step of the core would delay the second one; the wake-up
    socket is written by the C-level handler, and a thread reads it. Outside the main thread nothing is changed.
    """

    def __init__(self, message: str = "") -> None:
        """`message` is written to standard error at the first signal."""
        self._message = message
        self._signal = 0
        self._thread: threading.Thread | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self._signal != 0

    @property
    def status(self) -> int:
        """Exit status for the signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self._signal

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._old = {s: signal.signal(s, self._ignore) for s in (signal.SIGINT, signal.SIGTERM)}
        self._thread = threading.Thread(target=self._watch, daemon=True, name="interrupts")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._write.close()
        self._thread.join()
        self._read.close()

    @staticmethod
    def _ignore(number: int, frame: FrameType | None) -> None:
        """The watching thread does the work."""

    def _watch(self) -> None:
        while data := self._read.recv(1):
            if data[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self._signal:
                os._exit(128 + data[0])
            self._signal = data[0]
            if self._message:
                sys.stderr.write(f"\n{self._message}\n")
                sys.stderr.flush()
