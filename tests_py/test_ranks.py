"""How ranks find each other, talk, and judge who holds up the others: here as threads of one process."""

import random
import socket
import struct
import threading
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from bytegolf.errors import UserError
from bytegolf.ranks import rendezvous
from bytegolf.ranks.environment import Ranks, free_port, ranks_here
from bytegolf.ranks.group import Group
from bytegolf.ranks.rendezvous import meet, ports
from bytegolf.ranks.watch import Pulse, behind
from bytegolf.ranks.wire import Channel, Gone


def ranks_of(world, key="key", port=None):
    port = port or free_port()
    return [Ranks(rank, world, rank, world, "127.0.0.1", port, key) for rank in range(world)]


def together(world, body, key="key"):
    """body(group) in a thread for each rank; what each returned, or raised."""
    out = [None] * world

    def one(ranks):
        group = Group(ranks, meet_s=20)
        try:
            out[ranks.rank] = body(group)
        except ValueError as error:
            out[ranks.rank] = error
        group.close()

    threads = [threading.Thread(target=one, args=(ranks,)) for ranks in ranks_of(world, key)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return out


def test_values_bytes_and_arrays_reach_every_rank_in_order():
    def body(group):
        said = group.broadcast({"a": [1, 2.5, None], "from": group.rank})
        data = group.broadcast_bytes(b"\0\1" * 5000 if group.rank == 0 else None)
        arrays = group.gather_array(np.arange(group.rank + 1, dtype=np.float64))
        return said, data, group.all_gather(10 * group.rank), [list(a) for a in arrays], group.gather(group.rank)

    got = together(3, body)
    for rank, (said, data, numbers, arrays, gathered) in enumerate(got):
        assert said == {"a": [1, 2.5, None], "from": 0}
        assert data == b"\0\1" * 5000
        assert numbers == [0, 10, 20]
        assert arrays == ([[0], [0, 1], [0, 1, 2]] if rank == 0 else [])
        assert gathered == ([0, 1, 2] if rank == 0 else [])


def test_floats_cross_to_the_bit():
    value = [0.1 + 0.2, 1e-320, float("inf"), 123456789.123456789]
    assert together(2, lambda group: group.broadcast(value if group.rank == 0 else None)) == [value, value]


def test_ranks_that_disagree_are_named_everywhere():
    got = together(3, lambda group: group.same("options", "x" if group.rank < 2 else "y"))
    assert [str(error) for error in got] == ["options: rank 2 has y, rank 0 has x"] * 3


def test_a_wish_to_stop_reaches_rank_zero():
    def body(group):
        if group.rank == 1:
            group.ask_to_stop()
        for _ in range(50):
            if group.broadcast(group.asked_to_stop() if group.rank == 0 else None):
                return True
            threading.Event().wait(0.1)
        return False

    assert together(2, body) == [True, True]


def test_ranks_that_do_not_come_are_named():
    with pytest.raises(TimeoutError, match=r"in 0\.3 s: 1, 2 of 3"):
        meet(ranks_of(3)[0], 0.3)
    with pytest.raises(TimeoutError, match=r"rank 1 did not find rank 0 at 127\.0\.0\.1"):
        meet(ranks_of(2)[1], 0.3)


def test_a_caller_of_another_run_is_turned_away():
    port = free_port()
    mine, theirs = ranks_of(2, "mine", port), ranks_of(2, "theirs", port)
    errors = []

    def call():
        try:
            meet(theirs[1], 1.0)
        except TimeoutError as error:
            errors.append(str(error))

    stranger = threading.Thread(target=call)
    stranger.start()
    with pytest.raises(TimeoutError, match="1 of 2"):
        meet(mine[0], 1.0)
    stranger.join(20)
    assert errors and "another run" in errors[0]


def test_a_port_that_is_taken_gives_way_to_the_next():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        got = [None, None]

        def one(ranks):
            got[ranks.rank] = meet(ranks, 20)

        threads = [threading.Thread(target=one, args=(ranks,)) for ranks in ranks_of(2, port=port)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert got[0].talk.keys() == {1} and got[1].watch.keys() == {0}


def test_ports_stay_inside_their_range_and_skip_the_agents():
    high = Ranks(0, 2, 0, 2, "a", 65530, "k")
    assert all(1024 <= port < 65536 for port in ports(high))
    agent = Ranks(0, 2, 0, 2, "a", 2000, "k", port_is_taken=True)
    assert 2000 not in ports(agent) and ports(agent)[0] == 2001


def pair():
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def test_messages_that_are_none_of_ours_are_refused():
    ours, theirs = pair()
    with ours, theirs:
        theirs.sendall(b"\xff" * 12)
        with pytest.raises(ValueError, match="not one of ours"):
            Channel(ours).receive()
    ours, theirs = pair()
    with ours, theirs:
        theirs.sendall(b"\0\0\0\2" + b"\0" * 8 + b"[]")
        with pytest.raises(ValueError, match="JSON object"):
            Channel(ours).receive()


def test_a_closed_connection_is_gone():
    ours, theirs = pair()
    theirs.close()
    with ours, pytest.raises(Gone):
        Channel(ours).receive()


def pulse(marks, still_s, waiting=False, what="step 4"):
    return Pulse(marks, what, waiting, still_s)


def test_whoever_is_behind_and_still_holds_up_the_others():
    assert behind({0: pulse(9, 50), 1: pulse(8, 51)}, 10) == (1, "makes no progress for 51 s (in: step 4)")
    assert behind({0: pulse(9, 50, waiting=True), 1: pulse(9, 51)}, 10)[0] == 1
    assert behind({0: pulse(3, 30), 1: pulse(3, 30)}, 10) == (0, "no rank makes progress for 30 s (in: step 4)")


def test_nobody_is_blamed_who_waits_or_moves():
    assert behind({0: pulse(9, 50), 1: pulse(8, 5)}, 10) is None
    assert behind({0: pulse(9, 50, waiting=True), 1: pulse(9, 1)}, 10) is None
    assert behind({0: pulse(9, 50, waiting=True), 1: pulse(9, 50, waiting=True)}, 10) is None


class Caller(threading.Thread):
    """One hostile caller of rank 0's port: says `words`, piece by piece, until rank 0 hangs up; heard is what it got."""

    def __init__(self, port, words=b"", piece_s=0.0, size=1 << 16):
        super().__init__(daemon=True)
        self.port, self.words, self.piece_s, self.size, self.heard = port, words, piece_s, size, b""
        self.over = threading.Event()

    def run(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=60) as own:
            self.heard = own.recv(1 << 16)
            words = self.words(self.heard) if callable(self.words) else self.words
            for at in range(0, len(words), self.size):
                own.sendall(words[at : at + self.size])
                self.over.wait(self.piece_s)
            while own.recv(1 << 16):  # keeps quiet until it is hung up on
                pass


def wait_for_port(port):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.01)
    raise AssertionError("rank 0 does not listen")


def late(place, seconds):
    with pytest.raises(TimeoutError):
        meet(place, seconds)


CLAIM_BYTES = 1 + 4 + 4 + 32 + 32  # kind, rank, number of ranks, fresh number, proof


def recorded_greeting(port):
    """What a good caller says to rank 0, heard by somebody between them, the last 32 bytes the proof."""
    ranks = ranks_of(4, "key", port)
    with socket.create_server(("127.0.0.1", 0)) as server:
        fake = replace(ranks[1], port=server.getsockname()[1])
        caller = threading.Thread(target=late, args=(fake, 0.3))
        caller.start()
        taken, _ = server.accept()
        with taken:
            taken.sendall(rendezvous.MAGIC + bytes(32))
            said = b""
            while len(said) < CLAIM_BYTES:
                said += taken.recv(CLAIM_BYTES - len(said)) or pytest.fail("it left")
    caller.join(30)
    return said


def test_two_hundred_hostile_callers_do_not_keep_four_ranks_apart(capfd):
    port = free_port()
    replay = recorded_greeting(port)
    assert len(replay) == CLAIM_BYTES
    kinds = [
        {"words": b""},  # silent
        {"words": b"x" * CLAIM_BYTES, "piece_s": 2.0, "size": 1},  # a byte each two seconds
        {"words": b"\0\0\0\2" + b"\xff" * 8},  # the head of a huge message
        {"words": random.Random(0).randbytes(5000)},
        {"words": replay},
        {"words": lambda heard: heard * 2},  # what it has just heard
        {"words": '{"proof": "é\udc80"}'.encode("utf-8", "surrogatepass")},
        {"words": b"\0\3\x0d\x40" + bytes(8) + b"[" * 200_000},
    ]
    ranks = ranks_of(4, "key", port)
    got, errors = [None] * 4, []

    def one(place):
        try:
            got[place.rank] = meet(place, 120)
        except Exception as error:
            errors.append(error)

    first = threading.Thread(target=one, args=(ranks[0],))
    first.start()
    wait_for_port(port)
    callers = [Caller(port, **kinds[i % len(kinds)]) for i in range(200)]
    for caller in callers:
        caller.start()
    end = time.monotonic() + 30
    while sum(bool(caller.heard) for caller in callers) < 100 and time.monotonic() < end:
        time.sleep(0.01)
    began = time.monotonic()
    others = [threading.Thread(target=one, args=(place,)) for place in ranks[1:]]
    for thread in others:
        thread.start()
    for thread in [first, *others]:
        thread.join(120)
    seconds = time.monotonic() - began
    for caller in callers:
        caller.over.set()
    assert not errors
    assert sorted(got[0].talk) == sorted(got[0].watch) == [1, 2, 3]
    assert seconds < 60  # beside a second or so on an idle machine
    for rank in (1, 2, 3):  # the links are those of the ranks
        got[rank].talk[0].send({"from": rank})
        assert got[0].talk[rank].receive()[0] == {"from": rank}
    for links in got:
        for channel in [*links.talk.values(), *links.watch.values()]:
            channel.close()
    said = capfd.readouterr().err
    assert "a caller from 127.0.0.1 was turned away" in said
    assert 3 < len(said.splitlines()) + 1 <= 6
    print(f"met in {seconds:.2f} s beside {len(callers)} hostile callers")


def test_a_proof_holds_for_its_own_port_and_number_only():
    port = free_port()
    replay = recorded_greeting(port)
    rank = threading.Thread(target=late, args=(ranks_of(4, "key", port)[0], 1.5))
    rank.start()
    wait_for_port(port)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as own:
        own.sendall(replay)
        heard = b""
        while piece := own.recv(4096):
            heard += piece
    assert len(heard) == 48  # its magic and fresh number: no answer to the old proof
    rank.join(30)


def test_a_rank_that_lost_its_answer_calls_again():
    port = free_port()
    ranks = ranks_of(2, "key", port)
    got = []
    zero = threading.Thread(target=lambda: got.append(meet(ranks[0], 60)))
    zero.start()
    wait_for_port(port)
    channel, why = rendezvous._greet(ranks[1], port, 0, 30)
    assert channel is not None, why
    channel.close()
    links = meet(ranks[1], 60)
    zero.join(60)
    links.talk[0].send({"a": 1})
    assert got[0].talk[1].receive() == ({"a": 1}, b"")


def test_messages_take_memory_as_they_come_and_have_caps():
    ours, theirs = pair()
    with ours, theirs:
        theirs.sendall(struct.pack(">IQ", 2, 8 << 30) + b"{}" + b"x" * 1000)  # 8 GiB are said to follow
        theirs.close()
        tracemalloc.start()
        with pytest.raises(Gone):
            Channel(ours).receive()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20
    ours, theirs = pair()
    with ours, theirs:
        text = b"[" * 200_000
        sender = threading.Thread(target=theirs.sendall, args=(struct.pack(">IQ", len(text), 0) + text,))
        sender.start()
        with pytest.raises(ValueError, match="nests too deeply"):
            Channel(ours).receive()
        sender.join(30)
    ours, theirs = pair()
    with ours, theirs:
        watch = Channel(ours, 100, 0)
        with pytest.raises(ValueError, match="100 \\+ 0 are allowed"):
            watch.send({"a": "x" * 200})
        theirs.sendall(struct.pack(">IQ", 101, 0))
        with pytest.raises(ValueError, match="not one of ours"):
            watch.receive()


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_cannot_be_is_refused_at_once(port):
    with pytest.raises(UserError, match=f"MASTER_PORT = {port}, but ports are 1 to 65535"):
        ranks_here({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
