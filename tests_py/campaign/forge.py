"""How bytes, texts and JSON values are changed: seeded, aware of structure, and fast."""

from __future__ import annotations

import json
import random
from typing import Any

INTERESTING = (
    *(0, 1, -1, 2, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64),
    *(10**30, 0.0, -0.0, 0.5, 1e308, -1e308, 5e-324, 1e-8, float("nan"), float("inf"), float("-inf")),
)  # fmt: skip
TEXTS = (
    *("", " ", "0", "-1", "nan", "true", "null", "\0", "\x1b[31m", "\x1b]0;x\x07", "\x9b31m", "\u202e", "\ufeff", "\ud800"),
    *("[/x]", "[bold]", "<script>", "../../etc/passwd", "/", "%s%n", "é", "\U0001f600", "x" * 300, "a\nb", "a\rb", "{}"),
)  # fmt: skip
BYTES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\n",
    b"\r",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"=",
    b"#",
    b"\xc3",
    b"\xed\xa0\x80",
)
TOKENS = (
    b"nan",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-",
    b"null",
    b"true",
    b"\x1b[2J",
    b"0x",
    b"99999999999999999999",
    b"\xef\xbb\xbf",
    b"//",
    b"..",
)


def flip(draw: random.Random, data: bytes) -> bytes:
    """One change of bytes that knows nothing of their meaning; sometimes several."""
    if not data:
        return draw.choice(TOKENS)
    out = bytearray(data)
    for _ in range(1 if draw.random() < 0.7 else draw.randrange(2, 6)):
        at = int(draw.random() * (len(out) + 1)) if out else 0
        kind = int(draw.random() * 9)
        if kind <= 1 and at < len(out):
            out[at] ^= 1 << int(draw.random() * 8)
        elif kind == 2 and at < len(out):
            out[at] = int(draw.random() * 256)
        elif kind == 3:
            out[at:at] = draw.choice(BYTES)
        elif kind == 4:
            out[at:at] = draw.choice(TOKENS)
        elif kind == 5:
            del out[at : at + 1 + int(draw.random() * 8)]
        elif kind == 6:
            other = int(draw.random() * (len(out) + 1))
            out[at:at] = out[other : other + 1 + int(draw.random() * 32)]
        elif kind == 7 and draw.random() < 0.3:
            del out[at:]
        else:
            size = 1 << int(draw.random() * 4)
            value = draw.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(out), len(out) + 1))
            out[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(out)


def scalar(draw: random.Random) -> Any:
    """Any JSON value that is none of the nesting ones."""
    kind = int(draw.random() * 5)
    if kind <= 1:
        return draw.choice(INTERESTING)
    if kind == 2:
        return draw.choice(TEXTS)
    return draw.choice((None, True, False, [], {}))


def change(draw: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one place changed: a value, a type, a key; something added, repeated, removed, nested deeply."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        out = dict(value)
        key = draw.choice(list(out))
        kind = draw.random()
        if kind < 0.75:
            out[key] = change(draw, out[key])
        elif kind < 0.85:
            del out[key]
        elif kind < 0.92:
            out[draw.choice(TEXTS)] = out.pop(key)
        else:
            out[draw.choice(TEXTS)] = scalar(draw)
        return out
    if isinstance(value, list) and value and draw.random() < 0.9:
        row = list(value)
        at = int(draw.random() * len(row))
        kind = draw.random()
        if kind < 0.7:
            row[at] = change(draw, row[at])
        elif kind < 0.8:
            del row[at]
        elif kind < 0.9:
            row.insert(at, row[at])
        else:
            row.append(scalar(draw))
        return row
    if draw.random() < 0.1:
        deep: Any = value
        for _ in range(draw.choice((1, 2, 40))):
            deep = [deep] if draw.random() < 0.5 else {"a": deep}
        return deep
    if isinstance(value, bool) or value is None:
        return scalar(draw)
    if isinstance(value, (int, float)) and draw.random() < 0.4:
        try:
            return draw.choice((value + 1, value - 1, -value, value * 2, float(value), str(value)))
        except OverflowError:
            return scalar(draw)
    if isinstance(value, str) and draw.random() < 0.4:
        return flip(draw, value.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    return scalar(draw)


def changed(draw: random.Random, value: Any) -> Any:
    """`change` once or a few times."""
    for _ in range(1 if draw.random() < 0.7 else draw.randrange(2, 5)):
        value = change(draw, value)
    return value


def deep_json(draw: random.Random) -> bytes:
    """Text that is nested beyond what a parser may recurse into."""
    depth = draw.choice((100, 5_000, 100_000))
    return draw.choice((b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth))


def text_of(value: Any) -> bytes:
    """JSON as Python writes it: NaN and Infinity included, as a careless writer would."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def join(*parts: bytes) -> bytes:
    """Several files in one input."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def split(data: bytes, count: int) -> list[bytes]:
    """What `join` put together."""
    parts = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "little")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    return parts
