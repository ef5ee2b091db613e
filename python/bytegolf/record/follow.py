"""Reading a log while a run writes it: only what is new, whole lines only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bytegolf.log_lines import parse


class LogTail:
    """The lines of a log from where the last `read` ended. The file may be missing, be cut short, or be replaced by a new run's."""

    def __init__(self, path: Path | str) -> None:
        """Nothing is opened before the first `read`."""
        self.path = Path(path)
        self.files = 0  # how many files were met under this name
        self.faults: list[str] = []  # of this file's lines that were left out since a value has a wrong type
        self._at = 0
        self._number = 0
        self._file_id = (0, 0)

    def read(self) -> list[dict[str, Any]]:
        """New lines; a last one without its line break waits until it is whole, what is not a line of a log is skipped, and a line
        with a value of a wrong type is skipped with a word in `faults`.

        Where another file has come in its place, its lines from the start: `files` has grown then. OSError when the file is
        there and cannot be read.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            facts = os.fstat(file.fileno())
            file_id = (facts.st_dev, facts.st_ino)
            if file_id != self._file_id or facts.st_size < self._at:
                self._file_id, self._at, self.files = file_id, 0, self.files + 1
                self._number, self.faults = 0, []
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return list(self._parsed(whole))

    def _parsed(self, whole: bytes) -> Iterator[dict[str, Any]]:
        for text in whole.split(b"\n")[:-1]:
            self._number += 1
            try:
                line = parse(text)
            except ValueError as error:
                self.faults.append(f"{self.path}, line {self._number}: {error}; left out")
            else:
                if line is not None:
                    yield line
