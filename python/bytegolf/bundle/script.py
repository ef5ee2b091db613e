"""How a run's sources and options become the one file train_gpt.py, and how such a file is read without running it."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import lzma
import re
from dataclasses import dataclass
from pathlib import Path

from bytegolf.bundle import bootstrap
from bytegolf.bundle.meter import LIMIT_BYTES
from bytegolf.config import Config
from bytegolf.device import DTYPES
from bytegolf.disk import write_whole

NAME = "train_gpt.py"
ROOT = Path(__file__).resolve().parents[3]
SUFFIXES = {".h", ".cpp", ".def", ".cu", ".cuh", ".py"}
# Rooms of what neither trains, packs nor scores; every other room and file is carried whole, comments included.
LEFT_OUT = ("bench", "checks", "compare", "data", "demo", "submission", "sweep", "watch")
# Options that a run chooses for itself; all others must agree between the seeds of a submission.
OWN = ("seed", "train_data", "val_data", "device", "track")
# The lines that `assemble` fills; a reader finds them by these bytes and parses nothing else of a foreign file.
_CONFIG, _SHA256, _ARCHIVE = b"\nCONFIG = ", b"\nSHA256 = ", b"\nARCHIVE = "
_VALUES = re.compile(_SHA256 + rb'"([0-9a-f]{64})"' + _ARCHIVE + rb'"([!-~]*)"(?=\n)')
# Literal context bits suit text; the archive has its own hashes, so LZMA's are left out.
_FILTERS = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24, "lc": 4, "lp": 0, "pb": 0}
]


@dataclass(frozen=True)
class Script:
    """What a train_gpt.py holds: its options as TOML, its files by path, their archive's sha256, and the program around them as it
    is without them."""

    config: str
    files: dict[str, bytes]
    sha256: str
    program: bytes

    @property
    def foreign_line(self) -> int | None:
        """The first line of the program that the carried sources do not have, from 1; None when it is theirs."""
        for path, data in self.files.items():
            if path.rpartition("/")[2] == "bootstrap.py":
                if data == self.program:
                    return None
                pairs = itertools.zip_longest(self.program.split(b"\n"), data.split(b"\n"))
                return next(number for number, (one, other) in enumerate(pairs, 1) if one != other)
        return 1


def recipe(config: Config) -> str:
    """All options as TOML but those that a run chooses for itself: equal for all seeds of one submission.

    A dtype that is the device's usual one is "auto", as it may have been asked for.
    """
    if config.dtype == DTYPES.get(config.device, ("",))[0]:
        config = config.replace(dtype="auto")
    lines = config.text().splitlines(keepends=True)
    return "".join(line for line in lines if line.split("=")[0].strip() not in OWN)


def shared(config: Config) -> Config:
    """`config` without what a run chooses for itself, which is as if nobody had chosen: equal for all seeds of one submission."""
    if config.dtype == DTYPES.get(config.device, ("",))[0]:
        config = config.replace(dtype="auto")
    absent = Config.absent().to_dict()
    return config.replace(**{name: absent[name] for name in OWN})


def keep(config: Config, folder: Path) -> Path | None:
    """Writes the train_gpt.py of the running sources and `config` into a run's folder; None where there are no sources."""
    text = own_script(config)
    if text is None:
        return None
    write_whole(folder / NAME, text)
    return folder / NAME


def own_script(config: Config) -> bytes | None:
    """The file that a run by `config` counts: the train_gpt.py it came from when that has the same options, else a new one."""
    came_from = ROOT / NAME
    if came_from.is_file():
        text = came_from.read_bytes()
        found = read(text, str(came_from))
        own = Config.stored(found.config, str(came_from))
        if not own.differences(shared(config)) and not bootstrap.differing(found.files, ROOT):
            return text
    paths = source_paths(ROOT)
    return assemble(recipe(config), {path: (ROOT / path).read_bytes() for path in paths}) if paths else None


def source_paths(root: Path) -> list[str]:
    """Paths below `root` that travel, sorted; [] where the package was installed without its sources."""
    if not (root / "csrc").is_dir() or not (root / "CMakeLists.txt").is_file():
        return []
    found = [p.relative_to(root).as_posix() for top in ("csrc", "python/bytegolf") for p in (root / top).rglob("*")]
    left_out = tuple(f"python/bytegolf/{room}/" for room in LEFT_OUT)
    found = [path for path in found if Path(path).suffix in SUFFIXES and not path.startswith(left_out)]
    return sorted([*found, "CMakeLists.txt", "pyproject.toml"])


def assemble(config: str, files: dict[str, bytes]) -> bytes:
    """The text of train_gpt.py. Equal input gives equal bytes, as far as liblzma does."""
    archive, digest = _archive(tuple(sorted(files.items())))
    if "'''" in config or "\\" in config:
        raise ValueError("options with backslashes or three quotes cannot travel in a train_gpt.py")
    text = Path(bootstrap.__file__).read_text(encoding="utf-8")
    for name, value in (("CONFIG", f"'''{config}'''"), ("SHA256", f'"{digest}"'), ("ARCHIVE", f'"{archive}"')):
        place = f'\n{name} = ""\n'
        if text.count(place) != 1:
            raise ValueError(f"{bootstrap.__file__} has no single line for {name}")
        text = text.replace(place, f"\n{name} = {value}\n")
    return text.encode()


@functools.lru_cache(maxsize=1)
def _archive(files: tuple[tuple[str, bytes], ...]) -> tuple[str, str]:
    table = "\n".join(f"{hashlib.sha256(data).hexdigest()} {len(data)} {path}" for path, data in files)
    raw = f"{table}\n\n".encode() + b"".join(data for _, data in files)
    packed = lzma.compress(raw, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=_FILTERS)
    return base64.b85encode(packed).decode("ascii"), hashlib.sha256(raw).hexdigest()


def load(path: Path) -> Script:
    """The train_gpt.py at `path`, taken apart as by `read`. A file over the challenge's limit is not even read."""
    size = path.stat().st_size
    if size > LIMIT_BYTES:
        raise ValueError(f"{path}: {size:,} bytes are over the limit of {LIMIT_BYTES:,}")
    return read(path.read_bytes(), str(path))


@functools.lru_cache(maxsize=2)
def read(text: bytes, where: str) -> Script:
    """Takes a train_gpt.py apart by its text, without running or parsing it. ValueError naming `where` for anything else, or a
    damaged one."""
    start, end = text.find(_CONFIG), text.find(_SHA256)
    found = _VALUES.match(text, end) if 0 <= start < end else None
    if found is None:
        raise ValueError(f"{where}: holds no lines CONFIG, SHA256 and ARCHIVE as bytegolf writes them")
    for name in (_CONFIG, _SHA256, _ARCHIVE):
        if text.count(name) != 1:
            raise ValueError(
                f"{where}: gives{name.decode().rstrip(' =').replace(chr(10), ' ')} {text.count(name)} times"
            )
    if b"\0" in text:
        raise ValueError(f"{where}: holds a NUL byte at {text.index(bytes(1))}")
    config = text[start + len(_CONFIG) : end]
    quotes = b"'''"
    if not (config.startswith(quotes) and config.endswith(quotes)) or quotes in config[3:-3] or b"\\" in config:
        raise ValueError(f"{where}: CONFIG is not one text between three quotes")
    try:
        files = bootstrap.carried(found[2].decode("ascii"), found[1].decode())
        options = config[3:-3].decode("utf-8")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    head = text[: start + len(_CONFIG)] + b'""' + _SHA256 + b'""' + _ARCHIVE + b'""' + text[found.end() :]
    return Script(options, files, found[1].decode(), head)
