"""What ranks say to each other: messages of one JSON object and any number of bytes, over TCP.

A message is 4 bytes of JSON length, 8 bytes of data length (both big-endian), the JSON, the data.
"""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from typing import Any

JSON_CAP_BYTES = 16 << 20
DATA_CAP_BYTES = 16 << 30
PIECE_BYTES = 1 << 20  # memory for a message grows with what has come of it
_HEAD = struct.Struct(">IQ")


class Gone(OSError):
    """The other end is not there any more."""


class Channel:
    """One connection to a rank that has proved itself. Each direction is for one thread at a time. Longer messages than the
    caps are refused before any memory is taken."""

    def __init__(
        self, connection: socket.socket, json_cap: int = JSON_CAP_BYTES, data_cap: int = DATA_CAP_BYTES
    ) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._json_cap, self._data_cap = json_cap, data_cap

    def fileno(self) -> int:
        """For select and friends."""
        return self._socket.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """How long send and receive may wait for each piece; None: for ever."""
        self._socket.settimeout(seconds)

    def send(self, value: dict[str, Any], data: bytes | memoryview = b"") -> None:
        """Sends one message. Gone when nobody reads any more."""
        text = json.dumps(value, allow_nan=True).encode()
        size = memoryview(data).nbytes
        if len(text) > self._json_cap or size > self._data_cap:
            raise ValueError(
                f"a message of {len(text)} + {size} bytes between ranks; {self._json_cap} + {self._data_cap} are allowed"
            )
        try:
            self._socket.sendall(_HEAD.pack(len(text), size) + text)
            if data:
                self._socket.sendall(data)
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next message. Gone when the other end left, ValueError for what is no message, TimeoutError."""
        size, length = _HEAD.unpack(self._exactly(_HEAD.size))
        if size > self._json_cap or length > self._data_cap:
            raise ValueError(f"a message of {size} + {length} bytes is not one of ours")
        try:
            value = json.loads(self._exactly(size))
        except RecursionError as error:
            raise ValueError("a message nests too deeply") from error
        if not isinstance(value, dict):
            raise ValueError("a message must be a JSON object")
        return value, bytes(self._exactly(length))

    def _exactly(self, size: int) -> bytearray:
        buffer = bytearray()
        while len(buffer) < size:
            start = len(buffer)
            buffer += bytes(min(PIECE_BYTES, size - start))
            with memoryview(buffer) as whole:
                view = whole[start:]
                while view:
                    try:
                        count = self._socket.recv_into(view)
                    except TimeoutError:
                        raise
                    except OSError as error:
                        raise Gone(str(error)) from error
                    if count == 0:
                        raise Gone("the connection was closed")
                    rest = view[count:]
                    view.release()
                    view = rest
                view.release()
        return buffer

    def close(self) -> None:
        """Ends the connection, also for a thread that waits on it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
