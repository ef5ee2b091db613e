"""One rank's view of its group: what a run needs of the others beside the sums of gradients."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf
from bytegolf.device import find_libraries
from bytegolf.errors import Stopped
from bytegolf.ranks.environment import Ranks
from bytegolf.ranks.rendezvous import meet
from bytegolf.ranks.watch import STATUS, Pulse, Watch
from bytegolf.ranks.wire import Gone
from bytegolf.visible import one_line

MEET_S = 120.0  # for all ranks to come
FIRST_WORD_S = 1.5  # a lost connection is mostly the echo of a failure elsewhere, which is about to be reported


class Group:
    """A group of ranks, connected. All ranks make the same calls in the same order; values are JSON's, arrays NumPy's.

    As a context manager it says goodbye at the end, and reports an exception to all others, so that they leave too.
    """

    def __init__(self, ranks: Ranks, hang_s: float = 120.0, meet_s: float = MEET_S) -> None:
        """Returns when all ranks are there. hang_s: a rank without progress for so long ends the run. TimeoutError names the
        ranks that did not come in meet_s."""
        self.ranks = ranks
        self.rank, self.world = ranks.rank, ranks.world
        # Before CUDA and NCCL are loaded: NVLink multicast can put GPUs that others share out of service.
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        links = meet(ranks, meet_s)
        self.hosts = [links.hosts[rank] for rank in range(ranks.world)]
        self._talk = links.talk
        self._ticks = 0
        self._what = "starting"
        self._waiting = False
        self._stop = False
        self._marks: Callable[[], int] = lambda: 0
        self._moved = (0, time.monotonic())
        self._pulse_lock = threading.Lock()
        self._watch = Watch(self.rank, links.watch, self._pulse, hang_s)

    # Progress, as the watch sees it.

    def tick(self, what: str) -> None:
        """This rank has made progress; `what` says in a word or two what it does next."""
        self._ticks, self._what = self._ticks + 1, what

    def watch_marks(self, marks: Callable[[], int]) -> None:
        """`marks()` grows with progress inside long calls; it is asked from another thread."""
        self._marks = marks

    def _pulse(self) -> Pulse:
        with self._pulse_lock:
            marks, now = self._ticks + self._marks(), time.monotonic()
            if marks != self._moved[0] or self._waiting:
                self._moved = (marks, now)
            return Pulse(marks, self._what, self._waiting, now - self._moved[1], self._stop)

    def ask_to_stop(self) -> None:
        """This rank wants the run to stop; rank 0 hears of it within a second."""
        self._stop = True

    def asked_to_stop(self) -> bool:
        """Whether a rank has asked; meaningful on rank 0, which decides."""
        return self._stop or self._watch.others_want_to_stop()

    def on_failure(self, callback: Callable[[str], None]) -> None:
        """Called with the words before this process leaves because another rank failed."""
        self._watch.on_failure(callback)

    # Talking.

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's value, on all ranks."""
        if self.rank == 0:
            self._send_all({"value": value})
            return value
        return self._receive(0)[0]["value"]

    def broadcast_bytes(self, data: bytes | None = None) -> bytes:
        """Rank 0's bytes, on all ranks."""
        if self.rank == 0:
            self._send_all({}, data or b"")
            return data or b""
        return self._receive(0)[1]

    def gather(self, value: Any) -> list[Any]:
        """All ranks' values by rank, on rank 0; [] elsewhere."""
        if self.rank != 0:
            self._send(0, {"value": value})
            return []
        return [value] + [self._receive(rank)[0]["value"] for rank in range(1, self.world)]

    def all_gather(self, value: Any) -> list[Any]:
        """All ranks' values by rank, everywhere."""
        return list(self.broadcast(self.gather(value)))

    def gather_array(self, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """All ranks' one-dimensional arrays by rank, on rank 0; [] elsewhere. The dtype is the same everywhere."""
        if self.rank != 0:
            self._send(0, {}, np.ascontiguousarray(array).view(np.uint8).data)
            return []
        return [array] + [np.frombuffer(self._receive(rank)[1], array.dtype) for rank in range(1, self.world)]

    def barrier(self) -> None:
        """Returns when all ranks have called it."""
        self.all_gather(None)

    def same(self, what: str, value: Any) -> None:
        """ValueError on all ranks, naming one, when they do not all bring the same value."""
        values = self.all_gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(f"{what}: rank {rank} has {_short(other)}, rank 0 has {_short(values[0])}")

    def comm(self, model: _bytegolf.Model, meet_s: float = MEET_S) -> _bytegolf.Comm:
        """What sums `model`'s gradients over the ranks: NCCL between GPUs, sockets between CPUs."""
        self.tick("connecting")
        if model.device == "cuda":
            find_libraries()
            unique_id = self.broadcast_bytes(_bytegolf.nccl_unique_id() if self.rank == 0 else None)
            return _bytegolf.nccl_comm(model, self.rank, self.world, unique_id)
        host = self.hosts[self.rank]
        local = host in ("127.0.0.1", "localhost", "::1")
        listener = _bytegolf.Listener("127.0.0.1" if local else "")
        ports = self.all_gather(listener.port)
        peers = list(zip(self.hosts, ports, strict=True))
        return _bytegolf.socket_comm(listener, self.rank, peers, self.ranks.key, meet_s)

    @contextmanager
    def _wait(self) -> Iterator[None]:
        self._waiting = True
        try:
            yield
        except Gone as error:
            self._watch.known.wait(FIRST_WORD_S)
            raise Gone(self._watch.told or f"the connection to another rank was lost: {error}") from error
        finally:
            self._waiting = False

    def _send(self, rank: int, value: dict[str, Any], data: bytes | memoryview = b"") -> None:
        with self._wait():
            self._talk[rank].send(value, data)

    def _send_all(self, value: dict[str, Any], data: bytes = b"") -> None:
        for rank in range(1, self.world):
            self._send(rank, value, data)

    def _receive(self, rank: int) -> tuple[dict[str, Any], bytes]:
        with self._wait():
            return self._talk[rank].receive()

    # The end.

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Stopped):  # all ranks stop together
            self.close()
        else:
            self.fail(error)

    def close(self) -> None:
        """Waits for all ranks and parts."""
        self.tick("the end")
        self.barrier()
        self._watch.part()
        for channel in self._talk.values():
            channel.close()

    def cause(self, error: BaseException) -> str | None:
        """Another rank's failure, with its number, when `error` came after it; None when `error` is the first that is known."""
        if isinstance(error, OSError):
            self._watch.known.wait(FIRST_WORD_S)
        return self._watch.told

    def fail(self, error: BaseException) -> None:
        """Tells all ranks why this one ends. Its process ends within seconds, even if something still hangs in it."""
        self.cause(error)
        words = " ".join(str(error).split()) or type(error).__name__
        first = self._watch.fail(words.removeprefix(f"rank {self.rank}: "))
        if not first.startswith(f"rank {self.rank}: "):  # this error is the echo of another rank's
            sys.stderr.write(f"bytegolf: {one_line(first)}; rank {self.rank} leaves\n")
        threading.Thread(target=_end_soon, daemon=True).start()


def _end_soon() -> None:
    time.sleep(10)
    sys.stderr.flush()
    os._exit(STATUS)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
