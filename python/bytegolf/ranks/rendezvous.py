"""How ranks find each other: rank 0 listens, the others call, both prove that they belong to the same run.

Every rank opens two connections to rank 0: one to talk (by the main thread, in the order of the program), one to watch (by a
thread, all the time).

The greeting is three messages of fixed size, and nothing of them is interpreted before the proof:

    rank 0   magic, a fresh number
    caller   kind, rank, number of ranks, a fresh number of its own, proof
    rank 0   proof

A proof is an HMAC-SHA256, under the key of the run, of all that both have said and of the port that was called: an old greeting,
or one that somebody at another port passes on, proves nothing. Callers are served at once and side by side, each with one
deadline for all it has to say; of those without a proof the oldest leaves when there are too many.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import selectors
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

from bytegolf.ranks.environment import Ranks
from bytegolf.ranks.wire import Channel
from bytegolf.visible import one_line

MAGIC = b"bytegolf ranks 2"
PORTS = 16  # tried in turn, since the first may be taken
HELLO_S = 10.0  # for the whole greeting, as rank 0 sees it
CALL_S = (2.0, 5.0, 10.0)  # the same as a caller sees it, in its first rounds through the ports and in all later ones
GUESTS = 128  # callers without a proof
NAMED = 3  # strangers that get a line of their own
KINDS = ("talk", "watch")
WATCH_CAP_BYTES = 64 << 10  # of a message on a connection that watches; it has no data

_CHALLENGE = struct.Struct(">16s32s")  # magic, fresh
_CLAIM = struct.Struct(">BII32s32s")  # kind, rank, world, fresh, proof
_PROOF_BYTES = 32


@dataclass
class Links:
    """Connections by kind and rank: rank 0 has those of all others, the others have the one to rank 0. hosts: by rank, how
    rank 0 sees them."""

    talk: dict[int, Channel]
    watch: dict[int, Channel]
    hosts: dict[int, str]


def meet(ranks: Ranks, timeout_s: float) -> Links:
    """Connects all ranks. TimeoutError names those that did not come, or says where rank 0 was looked for."""
    return _Meeting(ranks, timeout_s).run() if ranks.rank == 0 else _call(ranks, timeout_s)


def ports(ranks: Ranks) -> list[int]:
    """Where rank 0 may listen. torchrun's own agent listens on MASTER_PORT itself."""
    first = ranks.port + (1 if ranks.port_is_taken else 0)
    return [1024 + (port - 1024) % (65536 - 1024) for port in range(first, first + PORTS)]


@dataclass(frozen=True)
class _Claim:
    """What a caller says, and all that a proof is over."""

    kind: int
    rank: int
    world: int
    port: int
    challenge: bytes
    fresh: bytes

    def proof(self, key: str, side: bytes) -> bytes:
        numbers = struct.pack(">BIII", self.kind, self.rank, self.world, self.port)
        text = b"\0".join([MAGIC, side, numbers + self.challenge + self.fresh])
        return hmac.digest(key.encode("utf-8", "surrogateescape"), text, hashlib.sha256)


def _channel(kind: str, connection: socket.socket) -> Channel:
    connection.settimeout(None)
    return Channel(connection) if kind == "talk" else Channel(connection, WATCH_CAP_BYTES, 0)


def _listen(ranks: Ranks) -> socket.socket:
    local = ranks.address in ("127.0.0.1", "localhost", "::1")
    why = ""
    for port in ports(ranks):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1" if local else "", port))
            listener.listen(1024)
            listener.setblocking(False)
            return listener
        except OSError as error:
            why = str(error)
            listener.close()
    raise OSError(f"rank 0 can listen on none of the ports {ports(ranks)[0]} to {ports(ranks)[-1]}: {why}")


@dataclass
class _Guest:
    """A caller that has not proved anything yet."""

    connection: socket.socket
    host: str
    deadline: float
    challenge: bytes
    said: bytearray = field(default_factory=bytearray)


class _Meeting:
    """Rank 0 until all ranks are there."""

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        self._ranks, self._timeout_s = ranks, timeout_s
        self._sockets: dict[tuple[str, int], socket.socket] = {}  # by kind and rank, with a proof
        self._hosts = {0: ranks.address}
        self._guests: dict[int, _Guest] = {}  # by file number, oldest first
        self._turned_away = 0
        self._port = 0

    def run(self) -> Links:
        end = time.monotonic() + self._timeout_s
        with _listen(self._ranks) as listener, selectors.DefaultSelector() as selector:
            self._port = listener.getsockname()[1]
            selector.register(listener, selectors.EVENT_READ)
            try:
                while missing := self._missing():
                    left = end - time.monotonic()
                    if left <= 0:
                        names = ", ".join(map(str, missing))
                        where = f"{self._ranks.address} port {self._port}"
                        raise TimeoutError(
                            f"ranks that did not come to {where} in {self._timeout_s:g} s: {names} of {self._ranks.world}"
                        )
                    for found, _ in selector.select(min(left, 0.2)):
                        if found.fileobj is listener:
                            self._welcome(listener, selector)
                        elif found.fd in self._guests:
                            self._hear(self._guests[found.fd], selector)
                    self._part_late(selector)
            except BaseException:
                for connection in self._sockets.values():
                    connection.close()
                raise
            finally:
                for guest in self._guests.values():
                    guest.connection.close()
        if self._turned_away > NAMED:
            _say(f"{self._turned_away} callers were turned away while the ranks met")
        links = Links({}, {}, self._hosts)
        for (kind, rank), connection in self._sockets.items():
            getattr(links, kind)[rank] = _channel(kind, connection)
        for rank, channel in links.talk.items():
            channel.send({"hosts": links.hosts, "you": rank})
        return links

    def _missing(self) -> list[int]:
        return [r for r in range(1, self._ranks.world) if any((kind, r) not in self._sockets for kind in KINDS)]

    def _welcome(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        """Takes one call and says the first word, which the socket's own buffer has room for."""
        try:
            connection, (host, *_) = listener.accept()
        except OSError:  # gone again, or too many files: others may leave
            if self._guests:
                self._turn_away(next(iter(self._guests.values())), selector, "more calls than can be taken")
            return
        guest = _Guest(connection, host, time.monotonic() + HELLO_S, os.urandom(32))
        connection.setblocking(False)
        try:
            connection.sendall(_CHALLENGE.pack(MAGIC, guest.challenge))
        except OSError:
            connection.close()
            return
        self._guests[connection.fileno()] = guest
        selector.register(connection, selectors.EVENT_READ)
        if len(self._guests) > GUESTS:
            self._turn_away(next(iter(self._guests.values())), selector, "no proof, and others wait")

    def _part_late(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for guest in [guest for guest in self._guests.values() if guest.deadline <= now]:
            self._turn_away(guest, selector, f"no proof within {HELLO_S:g} s")

    def _turn_away(self, guest: _Guest, selector: selectors.BaseSelector, why: str) -> None:
        self._forget(guest, selector)
        guest.connection.close()
        self._turned_away += 1
        if self._turned_away <= NAMED:
            _say(f"a caller from {guest.host} was turned away: {why}")

    def _forget(self, guest: _Guest, selector: selectors.BaseSelector) -> None:
        selector.unregister(guest.connection)
        del self._guests[guest.connection.fileno()]

    def _hear(self, guest: _Guest, selector: selectors.BaseSelector) -> None:
        try:
            piece = guest.connection.recv(_CLAIM.size - len(guest.said))
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        guest.said += piece
        if not piece:
            self._turn_away(guest, selector, "it left before its proof")
        elif len(guest.said) == _CLAIM.size:
            why = self._judge(guest, selector)
            if why:
                self._turn_away(guest, selector, why)

    def _judge(self, guest: _Guest, selector: selectors.BaseSelector) -> str:
        """Why the caller is not a rank of this run; "" once it has its place."""
        kind, rank, world, fresh, proof = _CLAIM.unpack(guest.said)
        claim = _Claim(kind, rank, world, self._port, guest.challenge, fresh)
        if not hmac.compare_digest(proof, claim.proof(self._ranks.key, b"caller")):
            return "it does not know the key of this run"
        if world != self._ranks.world or not 1 <= rank < world or kind >= len(KINDS):
            return f"it is rank {rank} of {world}, this run has {self._ranks.world}"
        place = (KINDS[kind], rank)
        if place in self._sockets:
            if not _has_left(self._sockets[place]):
                return f"rank {rank} is already there"
            self._sockets.pop(place).close()  # it lost our answer and calls again
        try:
            guest.connection.sendall(claim.proof(self._ranks.key, b"rank 0"))
        except OSError:
            return "it left before the answer"
        self._forget(guest, selector)
        self._sockets[place] = guest.connection
        self._hosts[rank] = guest.host
        return ""


def _has_left(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _say(text: str) -> None:
    sys.stderr.write(f"bytegolf: {one_line(text)}\n")
    sys.stderr.flush()


def _call(ranks: Ranks, timeout_s: float) -> Links:
    end = time.monotonic() + timeout_s
    found: dict[str, Channel] = {}
    answered_at, why, round_ = 0, "", 0
    while len(found) < len(KINDS):
        patience = CALL_S[min(round_, len(CALL_S) - 1)]
        round_ += 1
        for port in [answered_at] if found else ports(ranks):
            left = min(CALL_S[-1] if found else patience, max(end - time.monotonic(), 0.1))
            channel, reason = _greet(ranks, port, len(found), left)
            why = reason if "refused" not in reason else why or reason  # most ports of the list are nobody's
            if channel is not None:
                found[KINDS[len(found)]] = channel
                answered_at = port
                break
        else:
            if time.monotonic() > end:
                for channel in found.values():
                    channel.close()
                where = f"{ranks.address} ports {ports(ranks)[0]} to {ports(ranks)[-1]}"
                raise TimeoutError(f"rank {ranks.rank} did not find rank 0 at {where} in {timeout_s:g} s: {why}")
            time.sleep(0.1)
    talk = found["talk"]
    talk.settimeout(timeout_s)
    hosts = {int(rank): str(host) for rank, host in talk.receive()[0]["hosts"].items()}
    talk.settimeout(None)
    return Links({0: talk}, {0: found["watch"]}, hosts | {0: ranks.address})


def _greet(ranks: Ranks, port: int, kind: int, timeout_s: float) -> tuple[Channel | None, str]:
    """Greets whoever listens there, all within `timeout_s`: the connection to rank 0, or None and why not."""
    deadline = time.monotonic() + timeout_s
    try:
        connection = socket.create_connection((ranks.address, port), timeout=timeout_s)
    except OSError as error:
        return None, str(error)
    try:
        magic, challenge = _CHALLENGE.unpack(_exactly(connection, _CHALLENGE.size, deadline))
        if magic != MAGIC:
            raise ValueError("somebody else answers")
        claim = _Claim(kind, ranks.rank, ranks.world, port, challenge, os.urandom(32))
        proof = claim.proof(ranks.key, b"caller")
        connection.sendall(_CLAIM.pack(kind, ranks.rank, ranks.world, claim.fresh, proof))
        try:
            answer = _exactly(connection, _PROOF_BYTES, deadline)
        except ConnectionError as error:
            raise ValueError("another run, or another number of ranks, answers") from error
        if not hmac.compare_digest(answer, claim.proof(ranks.key, b"rank 0")):
            raise ValueError("another run answers")
        return _channel(KINDS[kind], connection), ""
    except (OSError, ValueError) as error:
        with suppress(OSError):
            connection.close()
        return None, str(error)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    got = b""
    while len(got) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no greeting in time")
        connection.settimeout(left)
        piece = connection.recv(size - len(got))
        if not piece:
            raise ConnectionResetError("the connection was closed")
        got += piece
    return got
