"""Notices that a rank has died, hangs or has failed, and makes all others leave: a thread in every rank.

Each rank reports once a second: how far it is, and whether it only waits for others. Rank 0 listens to all and decides. Its
verdict reaches every rank, which then reports it and ends its process, whatever its main thread is doing. A rank ends by itself
when rank 0 is gone.

died    its connection closes, or it is silent for SILENCE_S
hangs   of those that do not wait for others, one that is behind all others has not moved for hang_s
failed  it says so: an exception of its program
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bytegolf.ranks.wire import Channel, Gone
from bytegolf.visible import one_line

BEAT_S = 1.0
SILENCE_S = 20.0
LEAVE_S = 5.0  # a rank whose program is ending by itself may take this long
REASON_CHARS = 4000  # of a failure's words that are passed on
STATUS = 1  # of a rank that leaves because another failed


@dataclass
class Pulse:
    """How far a rank's main thread is."""

    marks: int = 0  # grows with every bit of progress
    what: str = "starting"
    waiting: bool = False  # for other ranks
    still_s: float = 0.0  # seconds since the marks last grew
    stop: bool = False  # whether it wants the run to stop


@dataclass
class _Seen:
    heard: float
    pulse: Pulse = field(default_factory=Pulse)
    parted: bool = False


def behind(pulses: dict[int, Pulse], hang_s: float) -> tuple[int, str] | None:
    """The rank that holds up the others, and in which words; None as long as all move.

    Ranks wait for each other inside a step, too: the one with the fewest marks is the one they wait for.
    """
    least = min((pulse.marks for pulse in pulses.values() if not pulse.waiting), default=None)
    for rank, pulse in sorted(pulses.items()):
        if not pulse.waiting and pulse.marks == least and pulse.still_s > hang_s:
            others = [p for r, p in pulses.items() if r != rank]
            alike = bool(others) and all(not p.waiting and p.marks == least for p in others)
            who = "no rank makes" if alike else "makes no"
            return rank, f"{who} progress for {pulse.still_s:.0f} s (in: {pulse.what})"
    return None


class Watch:
    """The thread of one rank. `channels`: rank 0 has those of all others, the others have rank 0's."""

    def __init__(self, rank: int, channels: dict[int, Channel], pulse: Callable[[], Pulse], hang_s: float) -> None:
        self.rank = rank
        self._channels = channels
        self._pulse = pulse
        self._hang_s = hang_s
        self._lock = threading.Lock()
        self._seen = {r: _Seen(time.monotonic()) for r in channels}
        self._callbacks: list[Callable[[str], None]] = []
        self._leaving = False  # this rank's own program has failed, or all part in peace
        self.told: str | None = None  # what happened, once it is known
        self.known = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="rank watch")
        self._thread.start()

    def on_failure(self, callback: Callable[[str], None]) -> None:
        """Called with the words before this process leaves because another rank failed."""
        self._callbacks.append(callback)

    def others_want_to_stop(self) -> bool:
        """On rank 0: whether another rank does."""
        return any(seen.pulse.stop for seen in self._seen.values())

    def fail(self, reason: str) -> str:
        """This rank's program has failed. Tells all others; returns what came first, with its rank."""
        self._leaving = True
        self._tell(self.rank, reason[:REASON_CHARS])
        return str(self.told)

    def part(self) -> None:
        """All work is done: connections may close from now on."""
        self._leaving = True
        self._send_all({"part": True})
        self._stop.set()
        self._thread.join(timeout=2 * BEAT_S)
        for channel in self._channels.values():
            channel.close()

    # What this rank says.

    def _send_all(self, message: dict[str, Any], but: int | None = None) -> None:
        for rank, channel in list(self._channels.items()):
            if rank != but:
                with self._lock, suppress(Gone):
                    channel.send(message)

    def _tell(self, rank: int, reason: str) -> None:
        """Rank 0 notifies all, others notify rank 0."""
        if self.told is None:
            self.told = f"rank {rank}: {reason}"
            self._send_all({"failed": rank, "reason": reason})
            self.known.set()

    # What this rank hears.

    def _run(self) -> None:
        beat = 0.0
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= beat:
                beat = now + BEAT_S
                pulse = self._pulse()
                self._send_all({"beat": vars(pulse)})
                self._judge(pulse)
            listening = {c.fileno(): r for r, c in self._channels.items() if not self._seen[r].parted}
            if not listening:
                self._stop.wait(0.2)
                continue
            with suppress(OSError, ValueError):
                for handle in select.select(list(listening), [], [], 0.2)[0]:
                    self._hear(listening[handle])

    def _hear(self, rank: int) -> None:
        seen = self._seen[rank]
        try:
            message, _ = self._channels[rank].receive()
            self._heed(rank, message)
        except (ValueError, TypeError, KeyError) as error:
            seen.parted = True
            self._failed(rank, f"it sent what is no message between ranks ({type(error).__name__}: {error})")
        except OSError:
            seen.parted = True
            if not self._stop.is_set():
                self._failed(rank, "its process ended without a word (killed, or its host is gone)")

    def _heed(self, rank: int, message: dict[str, Any]) -> None:
        seen = self._seen[rank]
        seen.heard = time.monotonic()
        if "beat" in message:
            seen.pulse = Pulse(**message["beat"])
        elif "failed" in message:
            self._failed(int(message["failed"]), str(message["reason"]))
        elif "part" in message:
            seen.parted = True

    def _judge(self, own: Pulse) -> None:
        now = time.monotonic()
        for rank, seen in self._seen.items():
            if not seen.parted and now - seen.heard > SILENCE_S:
                seen.parted = True
                self._failed(rank, f"nothing is heard of it for {SILENCE_S:.0f} s (stopped, or its host is gone)")
        if self.rank == 0 and self.told is None and not self._leaving:
            pulses = {0: own} | {r: s.pulse for r, s in self._seen.items() if not s.parted}
            found = behind(pulses, self._hang_s)
            if found is not None:
                self._failed(*found)

    def _failed(self, rank: int, reason: str) -> None:
        known = self.told is not None
        if self.rank == 0:
            self._tell(rank, reason)
        elif not known:
            self.told = f"rank {rank}: {reason}"
            self.known.set()
        if not known:
            threading.Thread(target=self._leave, daemon=True, name="leaving").start()

    def _leave(self) -> None:
        """Says what happened and ends the process, unless its program is about to do so."""
        if self._leaving:
            self._stop.wait(LEAVE_S)
            if self._stop.is_set():
                return
        else:
            callbacks = threading.Thread(target=self._call_back, daemon=True)
            callbacks.start()
            sys.stderr.write(f"bytegolf: {one_line(str(self.told))}; rank {self.rank} leaves\n")
            sys.stderr.flush()
            time.sleep(0.5)  # for what is still to be sent
            callbacks.join(LEAVE_S)
        os._exit(STATUS)

    def _call_back(self) -> None:
        for callback in self._callbacks:
            with suppress(Exception):
                callback(str(self.told))
