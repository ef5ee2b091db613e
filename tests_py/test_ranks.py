"""How ranks find each other, talk, and judge who holds up the others: here as threads of one process."""

import socket
import threading

import numpy as np
import pytest

from bytegolf.ranks.environment import Ranks, free_port
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
