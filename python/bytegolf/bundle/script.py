"""How a run's sources and options become the one file train_gpt.py, and how such a file is read without running it."""

from __future__ import annotations

import ast
import base64
import functools
import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path

from bytegolf.bundle import bootstrap
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
# Literal context bits suit text; the archive has its own hashes, so LZMA's are left out.
_FILTERS = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24, "lc": 4, "lp": 0, "pb": 0}
]


@dataclass(frozen=True)
class Script:
    """What a train_gpt.py holds: its options as TOML, and its files by path."""

    config: str
    files: dict[str, bytes]


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


@functools.lru_cache(maxsize=2)
def read(text: bytes, where: str) -> Script:
    """Takes a train_gpt.py apart without running it. ValueError naming `where` for anything else, or a damaged one."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{where}: no Python: {error}") from None
    constants: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            constants |= {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
    if not {"CONFIG", "SHA256", "ARCHIVE"} <= constants.keys():
        raise ValueError(f"{where}: holds no CONFIG, SHA256 and ARCHIVE")
    try:
        files = bootstrap.carried(constants["ARCHIVE"], constants["SHA256"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Script(constants["CONFIG"], files)
