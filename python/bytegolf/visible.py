"""Text that a terminal only shows: what it would obey, reorder or hide is written as an escape."""

from __future__ import annotations

import codecs
import re

# Control characters but for tab and newline; what sets the direction of text or is invisible (Unicode's Cf, without the joiners
# that Persian and emoji need); line and paragraph separators; surrogates, which stand for bytes of a file name.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with `\\x1b` for the escape character and so on; newlines and tabs stay. What is visible already stays as it is."""
    return _OBEYED.sub(lambda found: _escape(ord(found[0])), text)


def one_line(text: str) -> str:
    """The text as one line: newlines and tabs become spaces, too."""
    return visible(" ".join(text.split()))


class VisibleBytes:
    """Bytes that arrive a few at a time, as text for a terminal. A character that is cut waits for its other bytes."""

    def __init__(self) -> None:
        """Nothing has arrived."""
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape").decode

    def __call__(self, data: bytes, last: bool = False) -> str:
        """What can be shown of the bytes so far and was not; with `last` all."""
        return visible(self._decode(data, last))


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
