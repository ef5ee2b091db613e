"""TensorBoard's event files, written without TensorBoard: scalars, the options as text, and steps taken back."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

from bytegolf.trackers import About


class TensorBoard:
    """Writes HOME/tensorboard/events.out.tfevents.*; each part of a resumed run has a file of its own."""

    def __init__(self, about: About) -> None:
        """OSError when the folder cannot be written."""
        folder = about.home / "tensorboard"
        if about.again:  # beside what is there
            folder = folder / f"again-{about.again}"
        folder.mkdir(parents=True, exist_ok=True)
        # Files of one folder are read in the order of their names.
        number = len(list(folder.glob("events.out.tfevents.*")))
        self._events = EventFile(folder / f"events.out.tfevents.{int(time.time()):010d}.{number:03d}.bytegolf")
        if number == 0:
            rows = "".join(
                f"| {name} | {json.dumps(value)} |\n" for name, value in (about.config | about.facts).items()
            )
            self._events.text(0, time.time(), "config", f"| option | value |\n|---|---|\n{rows}")

    def log(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """One event."""
        self._events.scalars(step, time_s, values)

    def rewind(self, step: int) -> bool:
        """TensorBoard forgets what it read of later steps."""
        self._events.session_start(step + 1, time.time())
        return True

    def flush(self) -> None:
        """Hands all to the system."""
        self._events.flush()

    def close(self, reason: str) -> None:
        """Closes the file."""
        self._events.close()


class EventFile:
    """Records of `tensorflow.Event` messages: length, CRC of the length, message, CRC of the message.

    Sources: tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer.cc.
    """

    def __init__(self, path: Path) -> None:
        """Makes the file, with the first record that every reader expects."""
        self._file = path.open("xb")
        self._write(time.time(), 0, _bytes(3, b"brain.Event:2"))

    def scalars(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """Numbers by tag, as 32-bit floats."""
        rows = [_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in values.items()]
        self._write(time_s, step, _bytes(5, b"".join(rows)))

    def text(self, step: int, time_s: float, tag: str, markdown: str) -> None:
        """A text for the plugin of that name."""
        shape = _bytes(2, _bytes(2, _int(1, 1)))
        tensor = _int(1, 7) + shape + _bytes(8, markdown.encode())  # 7: DT_STRING
        about = _bytes(1, _bytes(1, b"text")) + _int(4, 2)  # 2: DATA_CLASS_TENSOR
        self._write(time_s, step, _bytes(5, _bytes(1, _bytes(1, tag.encode()) + _bytes(8, tensor) + _bytes(9, about))))

    def session_start(self, step: int, time_s: float) -> None:
        """Events of this step and later ones, as far as written, count no more."""
        self._write(time_s, step, _bytes(7, _int(1, 1)))  # SessionLog.START

    def flush(self) -> None:
        """Hands all to the system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, time_s: float, step: int, what: bytes) -> None:
        event = _key(1, 1) + struct.pack("<d", time_s) + (_int(2, step) if step else b"") + what
        size = struct.pack("<Q", len(event))
        self._file.write(size + _masked_crc(size) + event + _masked_crc(event))


def _key(field: int, wire: int) -> bytes:
    return bytes([field << 3 | wire])


def _int(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _float(field: int, value: float) -> bytes:
    try:
        return _key(field, 5) + struct.pack("<f", value)
    except OverflowError:  # beyond 32 bits
        return _key(field, 5) + struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # CRC-32C, reflected
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC of RFC 3720, B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
