"""Where to compute: what "auto" means with and without a GPU, and what is said when cuda cannot be had."""

import sys
from pathlib import Path

import numpy as np
import pytest

import bytegolf
from bytegolf import _bytegolf, cli, config, device
from bytegolf.checks import doctor, parity

NO_GPU = device.why_no_gpu()
without_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU that can be used")
with_gpu = pytest.mark.skipif(bool(NO_GPU), reason=f"needs a GPU: {NO_GPU}")


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (("auto", "auto"), ("cuda", "bfloat16")),
        (("cuda", "float32"), ("cuda", "float32")),
        (("cpu", "auto"), ("cpu", "float32")),
        (("cpu", "float64"), ("cpu", "float64")),
        (("cuda:1", "auto"), ("cuda:1", "bfloat16")),
    ],
)
def test_auto_is_the_gpu_in_bfloat16_where_there_is_one(monkeypatch, asked, got):
    monkeypatch.setattr(device, "why_no_gpu", lambda: "")
    assert device.resolve(*asked) == got


def test_auto_is_the_cpu_in_float32_where_there_is_none(monkeypatch):
    monkeypatch.setattr(device, "why_no_gpu", lambda: "no GPU is visible")
    assert device.resolve() == ("cpu", "float32")
    assert device.resolve("auto", "float64") == ("cpu", "float64")
    with pytest.raises(ValueError, match=r"device cuda: no GPU is visible; `bytegolf doctor` says more"):
        device.resolve("cuda")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("gpu", "auto"), "unknown device gpu; known: auto, cpu, cuda"),
        (("cuda:", "auto"), "unknown device cuda:; known"),
        (("cpu:1", "auto"), "unknown device cpu:1; known"),
        (("cuda:-1", "auto"), "unknown device cuda:-1; known"),
        (("cpu", "float16"), "unknown dtype float16; known on cpu: auto, float32, float64"),
        (("cpu", "bfloat16"), "device cpu does not compute in bfloat16"),
        (("cuda", "float64"), "device cuda does not compute in float64"),
    ],
)
def test_words_that_mean_nothing_or_do_not_fit_are_refused_by_name(monkeypatch, asked, words):
    monkeypatch.setattr(device, "why_no_gpu", lambda: "")
    with pytest.raises(ValueError, match=words):
        device.resolve(*asked)


def test_each_rank_of_a_host_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(device, "why_no_gpu", lambda: "")
    monkeypatch.setattr(device._bytegolf, "gpu_info", lambda: {"gpus": [{}] * 2})
    assert [device.of_rank("auto", rank) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert device.of_rank("cpu", 5) == "cpu"
    with pytest.raises(ValueError, match="local rank 2 has no GPU of its own: 2 are visible"):
        device.of_rank("cuda", 2)
    monkeypatch.setattr(device._bytegolf, "gpu_info", lambda: {"gpus": [{}]})
    assert device.of_rank("cuda", 3) == "cuda:0", "its launcher shows each rank one GPU"


@without_gpu
def test_a_model_on_cuda_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"device cuda: .*doctor"):
        bytegolf.Model(config.Config.preset("demo"), device="cuda")
    # The core itself, without the package around it.
    with pytest.raises((ValueError, OSError), match="cuda"):
        _bytegolf.Model(config.Config.preset("demo"), "cuda", "bfloat16", 0, 1)


@without_gpu
@pytest.mark.parametrize("verb", ["parity", "bench"])
def test_verbs_that_are_asked_for_cuda_end_with_one_line_and_status_2(capsys, verb):
    with pytest.raises(SystemExit) as left:
        cli.main([verb, *(["no.npz"] if verb == "parity" else []), "--device", "cuda"])
    captured = capsys.readouterr()
    assert left.value.code == 2
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("bytegolf: device cuda: ")
    assert not captured.out


def test_folders_of_nvidias_packages_are_found_without_importing_them(monkeypatch, tmp_path):
    for folder in ("cu13/lib", "cublas/lib", "cudnn/lib"):
        (tmp_path / "nvidia" / folder).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    found = device.library_folders()
    assert Path(tmp_path, "nvidia/cu13/lib") in found
    assert Path(tmp_path, "nvidia/cublas/lib") in found
    assert not any("cudnn" in str(folder) for folder in found)
    assert "nvidia" not in sys.modules


def test_doctor_says_what_of_cuda_is_there_or_why_nothing_is(capsys):
    found = doctor.cuda()
    assert found["live"] == (not NO_GPU)
    assert found["why"] == NO_GPU
    if not found["built"]:
        assert found["libraries"] == []
        assert "no CUDA kernels" in found["why"]


def test_doctor_shows_gpus_and_libraries(capsys, monkeypatch):
    """On the facts of a machine with two GPUs, of which one is too old, and no cuBLASLt."""
    facts = {
        "live": False,
        "why": "cuBLASLt not found",
        "built": True,
        "unusable": "",
        "driver": "13.0",
        "runtime": "13.0",
        "gpus": [
            {"name": "NVIDIA H200", "capability": "9.0", "total_bytes": 150_000_000_000},
            {"name": "Tesla T4", "capability": "7.5", "total_bytes": 16_000_000_000},
        ],
        "libraries": [
            {
                "name": "cuBLASLt",
                "path": "",
                "version": "",
                "problem": "not found; tried: libcublasLt.so.13",
                "always": True,
            }
        ],
    }
    monkeypatch.setattr(doctor, "cuda", lambda: facts)
    doctor.show(doctor.examine())
    out = capsys.readouterr().out
    for words in ("NVIDIA H200, compute capability 9.0, 150", "Tesla T4", "driver 13.0", "libcublasLt.so.13"):
        assert words in out


def test_bfloat16_holds_large_gradients_one_by_one_and_by_their_median_and_shows_small_ones():
    limits = parity.TOLERANCES["bfloat16"]
    assert limits["gradient_median"] < limits["gradient"]
    shown = parity.Check("a gradient of few elements", 0.9, limits["gradient_small"])
    assert shown.passed
    assert not parity.Check("not a number", float("nan"), limits["gradient_small"]).passed
    assert set(parity.TOLERANCES["float32"]) <= set(limits)


def test_parity_compares_in_float64_on_the_cpu_and_in_bfloat16_on_cuda_unless_told(monkeypatch):
    assert parity.definite("auto", "cpu") == ("float64", "cpu")
    monkeypatch.setattr(device, "why_no_gpu", lambda: "")
    assert parity.definite("auto", "cuda") == ("bfloat16", "cuda")
    assert parity.definite("float32", "cuda") == ("float32", "cuda")


@with_gpu
def test_a_run_goes_on_where_it_stopped_on_the_other_device(tmp_path):
    """Checkpoints hold float32 weights and moments, whatever computed them."""
    small = config.Config.preset("demo", num_layers=2, model_dim=64, num_heads=2, num_kv_heads=1, seq_len=64)
    small = small.replace(train_batch_ids=128, micro_batch_ids=128, iterations=8)
    ids = np.random.default_rng(0).integers(4, 260, 4000).astype(np.int32)
    for first, second in (("cpu", "cuda"), ("cuda", "cpu")):
        trainer = bytegolf.Trainer(small, ids, device=first, dtype="float32")
        for _ in range(3):
            trainer.step()
        trainer.checkpoint(tmp_path / first)
        want = trainer.step()
        other = bytegolf.Trainer(small, ids, device=second, dtype="float32")
        other.resume(tmp_path / first)
        got = other.step()
        assert got.step == want.step
        assert got.ce == pytest.approx(want.ce, rel=1e-4)
