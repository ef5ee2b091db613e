"""Packed files as streams of bytes: every stream, member or frame of gzip, xz, zstd, bzip2 and LZMA, and packings inside packings.

Nothing that follows the first stream is dropped: what is neither padding that the format allows nor a further stream is a
`FormatError` with its offset, and so are damage and a cut end. Memory is bounded whatever a file unpacks to.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from typing import IO, Any, Protocol

from bytegolf._bytegolf import FormatError
from bytegolf.documents.signs import HEAD_BYTES, begins_stream, codec_of

__all__ = ["BUFFER_BYTES", "head_of", "unpacked"]

BUFFER_BYTES = 1 << 20
PIECE_BYTES = 1 << 16  # of packed bytes, read at a time
ZSTD_PIECE_BYTES = (
    1 << 10
)  # zstandard has no limit of output: a block of 4 bytes may give 128 KiB, so this gives at most 32 MiB
MAX_LAYERS = 4
# Zero bytes that may follow a stream, by codec: multiples of so many (xz: 2.2 of its specification; gzip: as on tapes).
PADDING = {"xz": 4, "gz": 1}


def head_of(file: io.BufferedReader[Any]) -> bytes:
    """The next bytes, up to HEAD_BYTES, which stay to be read. For a stream that fills its buffer at once."""
    return file.peek(HEAD_BYTES)[:HEAD_BYTES]


def unpacked(
    file: io.BufferedReader[Any], where: str, named: str | None = None
) -> tuple[io.BufferedReader[Any], tuple[str, ...]]:
    """The stream as it is, or what is inside when its first bytes say that it is packed; and the codecs, outermost first.

    named: the codec that the file's name gives; lzma, whose old form has no magic, is believed more readily then. Closing the result closes `file`. Reading it raises FormatError naming `where` and the offset of what is wrong.
    """
    codecs: tuple[str, ...] = ()
    while (codec := codec_of(head_of(file), None if codecs else named)) is not None:
        if len(codecs) == MAX_LAYERS:
            raise FormatError(f"{where}: packed more than {MAX_LAYERS} times over ({', '.join(codecs)}, {codec})")
        inside = f"{where}, unpacked from {codecs[-1]}" if codecs else where
        file = io.BufferedReader(_Unpacked(file, codec, inside), BUFFER_BYTES)
        codecs = (*codecs, codec)
    return file, codecs


class _Decoder(Protocol):
    """One stream, as `bz2.BZ2Decompressor` has it."""

    @property
    def eof(self) -> bool:
        """Whether its end was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes without more packed bytes."""

    @property
    def unused_data(self) -> bytes:
        """What followed its end."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Up to so many bytes."""


class _Gzip:
    """One gzip member as a `_Decoder`; zlib checks its sum and its length."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._member.decompress(self._member.unconsumed_tail + data, max_length)
        self.needs_input = not self._member.unconsumed_tail and len(out) < max_length
        return out


class _Zstd:
    """One zstd frame as a `_Decoder`."""

    def __init__(self, zstandard: Any) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._out = memoryview(b"")

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof) and not self._out

    @property
    def needs_input(self) -> bool:
        return not self._out

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if not self._out:
            self._out = memoryview(self._frame.decompress(data))
        out, self._out = self._out[:max_length], self._out[max_length:]
        return bytes(out)


class _Unpacked(io.RawIOBase):
    """What all streams of a packed file hold, one after the other."""

    def __init__(self, source: IO[bytes], codec: str, where: str) -> None:
        self._source, self._codec, self._where = source, codec, where
        self._errors: tuple[type[Exception], ...] = (EOFError, zlib.error, lzma.LZMAError, ValueError, OSError)
        if codec == "zst":
            try:
                import zstandard
            except ImportError:
                raise ValueError(f"{where}: reading zstd needs zstandard; install bytegolf[data]") from None
            self._zstandard: Any = zstandard
            self._errors = (*self._errors, zstandard.ZstdError)
        self._piece = ZSTD_PIECE_BYTES if codec == "zst" else PIECE_BYTES
        self._data = b""  # read from the source, not yet given to a stream
        self._offset = 0  # of what follows `_data` in the source
        self._began = 0  # where the stream began
        self._stream: _Decoder | None = self._decoder()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, but at the end."""
        view, n = memoryview(buffer).cast("B"), 0
        while n < len(view) and (out := self._some(len(view) - n)):
            view[n : n + len(out)] = out
            n += len(out)
        return n

    def close(self) -> None:
        self._source.close()
        super().close()

    def _some(self, limit: int) -> bytes:
        """Up to `limit` bytes; none at the end alone."""
        while self._stream is not None:
            if self._stream.needs_input and not self._data and not self._fill():
                raise FormatError(
                    f"{self._where}: damaged or cut {self._codec} file: it ends at byte {self._offset:,}, inside the stream that "
                    f"begins at byte {self._began:,}"
                )
            data, self._data = (self._data, b"") if self._stream.needs_input else (b"", self._data)
            try:
                out = self._stream.decompress(data, limit)
            except self._errors as error:
                raise self._damaged(len(data), error) from None
            except MemoryError:
                raise FormatError(f"{self._where}: there is not enough memory to unpack it") from None
            if self._stream.eof:
                self._data = self._stream.unused_data + self._data
                self._stream = self._decoder() if self._another() else None
            if out:
                return out
        return b""

    def _damaged(self, size: int, error: Exception) -> FormatError:
        place = f"between bytes {self._offset - size:,} and {self._offset:,}, in the stream that begins at byte {self._began:,}"
        return FormatError(f"{self._where}: damaged {self._codec} file: {error} ({place})")

    def _another(self) -> bool:
        """Skips padding. Whether a stream follows; False at the end of the file, FormatError for anything else."""
        unit = PADDING.get(self._codec, 0)
        zeros = 0
        while unit and (self._data or self._fill()):
            rest = self._data.lstrip(b"\0")
            zeros += len(self._data) - len(rest)
            self._data = rest
            if rest:
                break
        while len(self._data) < 8 and self._fill():
            pass
        at = self._offset - len(self._data)
        if unit and zeros % unit:
            raise FormatError(
                f"{self._where}: damaged or cut {self._codec} file: {zeros:,} zero bytes before byte {at:,} are not a multiple of "
                f"{unit}, as padding must be"
            )
        if not self._data:
            return False
        if not begins_stream(self._codec, self._data):
            raise FormatError(
                f"{self._where}: damaged {self._codec} file: what begins at byte {at:,}, after the end of a stream, is not a "
                "further one"
            )
        self._began = at
        return True

    def _fill(self) -> bool:
        more = self._source.read(self._piece)
        self._data += more
        self._offset += len(more)
        return bool(more)

    def _decoder(self) -> _Decoder:
        if self._codec == "gz":
            return _Gzip()
        if self._codec == "zst":
            return _Zstd(self._zstandard)
        if self._codec == "bz2":
            return bz2.BZ2Decompressor()
        return lzma.LZMADecompressor(lzma.FORMAT_XZ if self._codec == "xz" else lzma.FORMAT_ALONE)
