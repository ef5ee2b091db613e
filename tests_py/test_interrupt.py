"""Ctrl-C: the first signal asks, the second ends the process at once even while the core computes."""

import os
import signal
import subprocess
import sys
import time

from bytegolf.screen.interrupt import Interrupts


def test_a_signal_asks_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        assert not interrupts.asked
        os.kill(os.getpid(), signal.SIGINT)
        limit = time.monotonic() + 60
        while not interrupts.asked and time.monotonic() < limit:
            time.sleep(0.01)
        assert interrupts.asked
        assert interrupts.status == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_signal_leaves_inside_one_long_call():
    # hashlib releases the GIL and returns to Python only after a long time, like a step of the core.
    code = """
import hashlib, sys
from bytegolf.screen.interrupt import Interrupts
with Interrupts("asked once"):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 500_000_000)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        assert "asked once" in child.stderr.readline() + child.stderr.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=10) == 130
