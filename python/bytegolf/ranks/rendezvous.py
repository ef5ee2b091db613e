"""How ranks find each other: rank 0 listens, the others call, both prove that they belong to the same run.

Every rank opens two connections to rank 0: one to talk (by the main thread, in the order of the program), one to watch (by a
thread, all the time).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bytegolf.ranks.environment import Ranks
from bytegolf.ranks.wire import Channel, Gone

MAGIC = "bytegolf ranks 1"
PORTS = 16  # tried in turn, since the first may be taken
HELLO_S = 5.0  # a stranger who keeps quiet must not hold up the others
KINDS = ("talk", "watch")


@dataclass
class Links:
    """Connections by kind and rank: rank 0 has those of all others, the others have the one to rank 0. hosts: by rank, how
    rank 0 sees them."""

    talk: dict[int, Channel]
    watch: dict[int, Channel]
    hosts: dict[int, str]


def meet(ranks: Ranks, timeout_s: float) -> Links:
    """Connects all ranks. TimeoutError names those that did not come, or says where rank 0 was looked for."""
    return _wait_for_all(ranks, timeout_s) if ranks.rank == 0 else _call(ranks, timeout_s)


def ports(ranks: Ranks) -> list[int]:
    """Where rank 0 may listen. torchrun's own agent listens on MASTER_PORT itself."""
    first = ranks.port + (1 if ranks.port_is_taken else 0)
    return [1024 + (port - 1024) % (65536 - 1024) for port in range(first, first + PORTS)]


def _proof(ranks: Ranks, challenge: str, side: str) -> str:
    return hmac.new(ranks.key.encode(), f"{MAGIC} {side} {challenge}".encode(), hashlib.sha256).hexdigest()


def _listen(ranks: Ranks) -> socket.socket:
    local = ranks.address in ("127.0.0.1", "localhost", "::1")
    why = ""
    for port in ports(ranks):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1" if local else "", port))
            listener.listen(2 * ranks.world + 16)
            return listener
        except OSError as error:
            why = str(error)
            listener.close()
    raise OSError(f"rank 0 can listen on none of the ports {ports(ranks)[0]} to {ports(ranks)[-1]}: {why}")


def _wait_for_all(ranks: Ranks, timeout_s: float) -> Links:
    links = Links({}, {}, {0: ranks.address})
    end = time.monotonic() + timeout_s

    def missing() -> list[int]:
        return [r for r in range(1, ranks.world) if r not in links.talk or r not in links.watch]

    with _listen(ranks) as listener:
        while missing():
            left = end - time.monotonic()
            if left <= 0:
                names = ", ".join(map(str, missing()))
                where = f"{ranks.address} port {listener.getsockname()[1]}"
                raise TimeoutError(f"ranks that did not come to {where} in {timeout_s:g} s: {names} of {ranks.world}")
            listener.settimeout(min(left, 1.0))
            try:
                connection, (host, *_) = listener.accept()
            except TimeoutError:
                continue
            channel = Channel(connection)
            got = _greet_caller(ranks, channel)
            if got is None or got[1] in getattr(links, got[0]):
                channel.close()
                continue
            kind, rank = got
            getattr(links, kind)[rank] = channel
            links.hosts[rank] = host
    for rank, channel in links.talk.items():
        channel.send({"hosts": links.hosts, "you": rank})
    return links


def _greet_caller(ranks: Ranks, channel: Channel) -> tuple[str, int] | None:
    """Kind and rank of a caller, None for a stranger."""
    channel.settimeout(HELLO_S)
    challenge = os.urandom(16).hex()
    try:
        channel.send({"magic": MAGIC, "challenge": challenge})
        hello, _ = channel.receive()
        kind, rank = hello.get("kind"), hello.get("rank")
        proof, mine = str(hello.get("proof")), str(hello.get("challenge"))
        known = hmac.compare_digest(proof, _proof(ranks, challenge, "caller")) and hello.get("world") == ranks.world
        if not known or kind not in KINDS or not isinstance(rank, int) or not 1 <= rank < ranks.world:
            return None
        channel.send({"proof": _proof(ranks, mine, "rank 0")})
    except (OSError, ValueError):
        return None
    channel.settimeout(None)
    return str(kind), rank


def _call(ranks: Ranks, timeout_s: float) -> Links:
    end = time.monotonic() + timeout_s
    found: dict[str, Channel] = {}
    answered_at, why = 0, ""
    while len(found) < len(KINDS):
        for port in [answered_at] if found else ports(ranks):
            left = min(HELLO_S, max(end - time.monotonic(), 0.1))
            channel, reason = _greet(ranks, port, KINDS[len(found)], left)
            why = reason if "refused" not in reason else why or reason  # most ports of the list are nobody's
            if channel is not None:
                found[KINDS[len(found)]] = channel
                answered_at = port
                break
        else:
            if time.monotonic() > end:
                where = f"{ranks.address} ports {ports(ranks)[0]} to {ports(ranks)[-1]}"
                raise TimeoutError(f"rank {ranks.rank} did not find rank 0 at {where} in {timeout_s:g} s: {why}")
            time.sleep(0.1)
    talk = found["talk"]
    talk.settimeout(timeout_s)
    hosts = {int(rank): str(host) for rank, host in talk.receive()[0]["hosts"].items()}
    talk.settimeout(None)
    return Links({0: talk}, {0: found["watch"]}, hosts | {0: ranks.address})


def _greet(ranks: Ranks, port: int, kind: str, timeout_s: float) -> tuple[Channel | None, str]:
    channel: Channel | None = None
    try:
        channel = Channel(socket.create_connection((ranks.address, port), timeout=timeout_s))
        hello, _ = channel.receive()
        if hello.get("magic") != MAGIC:
            raise ValueError("somebody else answers")
        challenge = os.urandom(16).hex()
        answer: dict[str, Any] = {"kind": kind, "rank": ranks.rank, "world": ranks.world, "challenge": challenge}
        channel.send(answer | {"proof": _proof(ranks, str(hello["challenge"]), "caller")})
        welcome, _ = channel.receive()
        if not hmac.compare_digest(str(welcome.get("proof")), _proof(ranks, challenge, "rank 0")):
            raise ValueError("another run answers")
        channel.settimeout(None)
        return channel, ""
    except (OSError, ValueError, KeyError) as error:
        if channel is not None:
            with suppress(OSError):
                channel.close()
        turned_away = "another run, or another number of ranks, answers"
        return None, turned_away if isinstance(error, Gone) and channel is not None else str(error)
