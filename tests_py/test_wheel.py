"""A wheel holds what it should and nothing of others', and works where only it is installed."""

import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "build_wheel.py"
CMAKE = ROOT / "build" / "dev"


def script():
    """scripts/build_wheel.py as a module."""
    spec = importlib.util.spec_from_file_location("build_wheel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*words):
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and a source distribution, made from what ./test compiled, and what the script said."""
    if not (CMAKE / "CMakeCache.txt").exists():
        pytest.skip(f"needs the CMake folder of ./test, {CMAKE}")
    out = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "--build-dir", CMAKE, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


@pytest.fixture
def changed(built, tmp_path):
    """A function that gives a copy of the wheel with one file more."""
    (wheel,) = built[0].glob("*.whl")

    def with_file(name, data):
        copy = Path(shutil.copy(wheel, tmp_path / wheel.name))
        with zipfile.ZipFile(copy, "a") as archive:
            archive.writestr(name, data)
        return copy

    return with_file


@pytest.mark.slow
def test_a_wheel_is_built_and_trains_packs_and_scores_in_a_clean_environment(built):
    out, said = built
    assert len(list(out.glob("*.whl"))) == len(list(out.glob("*.tar.gz"))) == 1
    assert "site-packages/bytegolf works" in said


@pytest.mark.slow
def test_a_wheel_with_a_library_of_nvidias_is_refused(changed):
    with zipfile.ZipFile(changed("bytegolf/none", "")) as archive:
        library = archive.read(next(name for name in archive.namelist() if Path(name).name.startswith("libhwy")))
    done = run("--check", changed("bytegolf.libs/libcublasLt-1a2b3c4d.so.13", library))
    assert done.returncode == 1
    assert "libcublasLt-1a2b3c4d.so.13" in done.stderr


@pytest.mark.slow
def test_a_wheel_whose_module_asks_the_loader_for_cuda_is_refused(changed, tmp_path):
    source, library = tmp_path / "empty.c", tmp_path / "extra.so"
    source.write_text("")
    for name, more in (("libcuda.so.1", []), (library.name, ["-Wl,--no-as-needed", tmp_path / "libcuda.so.1"])):
        link = ["gcc", "-shared", f"-Wl,-soname,{name}", "-o", tmp_path / name, source, *more]
        subprocess.run(link, check=True)
    done = run("--check", changed("bytegolf/extra.so", library.read_bytes()))
    assert done.returncode == 1
    assert "asks for libcuda.so.1" in done.stderr


@pytest.mark.slow
def test_a_wheel_with_tests_in_it_is_refused(changed):
    done = run("--check", changed("tests_py/test_bench.py", "x = 1\n"))
    assert done.returncode == 1
    assert "tests_py/test_bench.py" in done.stderr


def test_what_cibuildwheel_is_told_never_bundles_cuda_and_tries_the_wheel():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    first, second = told["linux"]["repair-wheel-command"]
    for library in ("cuda", "cudart", "cublas", "cublasLt", "nccl", "nvrtc"):
        assert f"--exclude lib{library}.so.*" in first
    assert {"{dest_dir}", "{wheel}"} <= set(first.split())
    assert second.endswith("scripts/build_wheel.py --check {dest_dir}/*.whl")
    assert told["test-command"].endswith("scripts/check_wheel.py")
    assert told["config-settings"] == {"cmake.define.BYTEGOLF_CUDA": "OFF"}


@pytest.mark.parametrize(
    "name", ["libcuda.so.1", "libcudart.so.13", "libcublasLt-12ab.so.12", "libnccl.so.2", "libnvidia-ml.so.1"]
)
def test_nvidias_libraries_are_known_by_their_names(name):
    assert script().NVIDIA.search(f"bytegolf.libs/{name}")


@pytest.mark.parametrize(
    "name", ["libhwy.so.1", "libzstd-9a1b.so.1", "libstdc++.so.6", "_bytegolf.cpython-311-x86_64-linux-gnu.so"]
)
def test_other_libraries_are_not_taken_for_nvidias(name):
    assert not script().NVIDIA.search(f"bytegolf/{name}")
