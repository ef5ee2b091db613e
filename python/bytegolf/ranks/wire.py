"""What ranks say to each other: messages of one JSON object and any number of bytes, over TCP.

A message is 4 bytes of JSON length, 8 bytes of data length (both big-endian), the JSON, the data.
"""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from typing import Any

JSON_CAP_BYTES = 64 << 20
DATA_CAP_BYTES = 64 << 30
_HEAD = struct.Struct(">IQ")


class Gone(OSError):
    """The other end is not there any more."""


class Channel:
    """One connection. Each direction is for one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection

    def fileno(self) -> int:
        """For select and friends."""
        return self._socket.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """How long send and receive may wait for each piece; None: for ever."""
        self._socket.settimeout(seconds)

    def send(self, value: dict[str, Any], data: bytes | memoryview = b"") -> None:
        """Sends one message. Gone when nobody reads any more."""
        text = json.dumps(value, allow_nan=True).encode()
        try:
            self._socket.sendall(_HEAD.pack(len(text), memoryview(data).nbytes) + text)
            if data:
                self._socket.sendall(data)
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next message. Gone when the other end left, ValueError for what is no message, TimeoutError."""
        size, length = _HEAD.unpack(self._exactly(_HEAD.size))
        if size > JSON_CAP_BYTES or length > DATA_CAP_BYTES:
            raise ValueError(f"a message of {size} + {length} bytes is not one of ours")
        value = json.loads(self._exactly(size))
        if not isinstance(value, dict):
            raise ValueError("a message must be a JSON object")
        return value, bytes(self._exactly(length))

    def _exactly(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            try:
                count = self._socket.recv_into(view)
            except TimeoutError:
                raise
            except OSError as error:
                raise Gone(str(error)) from error
            if count == 0:
                raise Gone("the connection was closed")
            view = view[count:]
        return buffer

    def close(self) -> None:
        """Ends the connection, also for a thread that waits on it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
