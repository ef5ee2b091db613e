"""Arrays cross on a GPU: the model's memory to other programs and theirs to it, without copies and in order of streams.

NVIDIA's driver alone plays the other program; where torch, CuPy or JAX for CUDA are installed, they do too.
"""

import gc

import dlpack_abi as abi
import numpy as np
import pytest
from gpu_driver import ByDlpack, ByInterface, Gpu
from test_model import batch, random_model, tiny

from bytegolf import Config, Model, Trainer, device

NO_GPU = device.why_no_gpu()
pytestmark = pytest.mark.skipif(bool(NO_GPU), reason=f"needs a GPU: {NO_GPU}")
NAME = "tok_emb.weight"
SIZES = {"model_dim": 64, "num_heads": 4, "num_kv_heads": 2, "rope_dims": 8, "bigram_dim": 8}


@pytest.fixture(scope="module")
def gpu():
    return Gpu()


def model_on_gpu(dtype="float32"):
    twin = random_model("byte260", "float32", **SIZES)
    model = Model(twin.config, device="cuda", dtype=dtype)
    model.load_parameters(twin.parameters())
    return model


def bfloat16(array):
    """Bits of the nearest bfloat16, ties to even."""
    bits = np.asarray(array, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return np.asarray((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, dtype=np.uint16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_views_say_where_they_lie_and_other_programs_read_them_there(gpu, dtype):
    model = model_on_gpu(dtype)
    model.synchronise()
    params = model.parameters()
    for name, view in model.views().items():
        assert view.device == "cuda:0" and view.__dlpack_device__() == (abi.CUDA, 0) and view.dtype == "float32"
        interface = view.__cuda_array_interface__
        assert interface["version"] == 3 and interface["typestr"] == "<f4" and interface["strides"] is None
        assert interface["data"] == (view.address, False) and interface["shape"] == view.shape
        assert interface["stream"] > 2
        tensor = abi.opened(view.__dlpack__(max_version=(1, 0))).tensor
        assert (tensor.data, tensor.device.type, tensor.device.index) == (view.address, abi.CUDA, 0)
        assert np.array_equal(gpu.read(view.address, view.shape, np.float32), params[name])
        assert np.array_equal(view.numpy(), params[name])


def test_numpy_gets_a_copy_when_it_asks_for_one_and_words_when_it_does_not():
    view = model_on_gpu().views()[NAME]
    assert np.array_equal(np.from_dlpack(view, device="cpu"), view.numpy())
    copied = abi.opened(view.__dlpack__(max_version=(1, 0), dl_device=(abi.CPU, 0)))
    assert copied.flags == 2 and copied.tensor.device.type == abi.CPU
    for call, kind, words in [
        (lambda: np.asarray(view), TypeError, r"lies on cuda:0: numpy\(\) copies it"),
        (lambda: memoryview(view), BufferError, "getting buffer|lies on cuda:0"),
        (lambda: view.__dlpack__(dl_device=(abi.CPU, 0), copy=False), BufferError, "copy=False forbids"),
        (lambda: view.__dlpack__(dl_device=(abi.CUDA, 7)), BufferError, "cannot go to DLPack device 2:7"),
        (lambda: view.__dlpack__(stream=-5), ValueError, "no stream has the number -5"),
    ]:
        with pytest.raises(kind, match=words):
            call()
    assert not hasattr(view, "__array_interface__")


def test_operands_leave_as_bfloat16_rounded_to_nearest_even(gpu):
    model = model_on_gpu("bfloat16")
    model.synchronise()
    params = model.parameters()
    for name, view in model.operand_views().items():
        assert view.dtype == "bfloat16" and view.read_only and not hasattr(view, "__cuda_array_interface__")
        managed = abi.opened(view.__dlpack__(max_version=(1, 0)))
        kind = managed.tensor.dtype
        assert (kind.code, kind.bits, kind.lanes, managed.flags) == (abi.BFLOAT, 16, 1, 1)
        bits = bfloat16(params[name])
        assert np.array_equal(gpu.read(view.address, view.shape, np.uint16), bits)
        assert np.array_equal(view.numpy().view(np.uint32), bits.astype(np.uint32) << 16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("named", [True, False])
def test_what_another_stream_writes_is_computed_with_after_refresh(gpu, dtype, named):
    model, twin = model_on_gpu(dtype), model_on_gpu(dtype)
    ids, _ = batch(model, 2, 12)
    before = model.logits(ids)
    params = twin.parameters()
    params[NAME] = params[NAME][::-1].copy()
    twin.load_parameters(params)
    view, source = model.views()[NAME], gpu.upload(params[NAME])
    gpu.keep_busy()
    gpu.copy(view.address, source, view.nbytes)
    model.refresh(gpu.stream if named else None)
    logits = model.logits(ids)
    assert not np.array_equal(logits, before) and logits.tobytes() == twin.logits(ids).tobytes()


def test_a_stream_that_takes_a_view_reads_what_the_model_was_asked_for_before(gpu):
    config = Config.preset(
        "byte260", num_layers=4, model_dim=512, seq_len=1024, train_batch_ids=8192, micro_batch_ids=8192
    )
    model = Model(config, device="cuda")
    ids = np.random.default_rng(0).integers(0, 260, (8, 1025))
    view = model.gradient_views()["blocks.0.mlp.proj.weight"]
    mine = gpu.allocate(view.nbytes)
    for _ in range(3):
        model.zero_gradients()
        model.loss(ids[:, :-1], ids[:, 1:])
        model.backward()  # asked for, not waited for
        capsule = view.__dlpack__(stream=gpu.stream, max_version=(1, 0))
        gpu.copy(mine, abi.opened(capsule).tensor.data, view.nbytes)
        got = gpu.read(mine, view.shape, np.float32)
        assert got.any() and np.array_equal(got, model.gradients()["blocks.0.mlp.proj.weight"])


def test_parameters_on_the_gpu_are_copied_inside_it_behind_their_writers(gpu):
    model = model_on_gpu("bfloat16")
    params = {name: np.asarray(value + 1) for name, value in model.parameters().items()}
    written = {name: gpu.upload(value) for name, value in params.items()}
    memory = {name: gpu.allocate(value.nbytes) for name, value in params.items()}
    ours = model.views()[NAME].__cuda_array_interface__["stream"]
    for how in ("interface", "dlpack", "dlpack before 1.0"):
        model.load_parameters({name: np.zeros_like(value) for name, value in params.items()})
        for name, value in params.items():
            gpu.call("cuMemsetD8Async", abi.ctypes.c_uint64(memory[name]), 255, abi.ctypes.c_size_t(value.nbytes),
                     abi.ctypes.c_void_p(gpu.stream))  # fmt: skip
        gpu.synchronise()
        gpu.keep_busy()
        for name, value in params.items():
            gpu.copy(memory[name], written[name], value.nbytes)
        if how == "interface":
            given = {name: ByInterface(memory[name], value, gpu.stream) for name, value in params.items()}
        else:
            kind = abi.ManagedVersioned if how == "dlpack" else abi.Managed
            given = {
                name: ByDlpack(gpu, memory[name], value.shape, abi.FLOAT, 32, kind=kind)
                for name, value in params.items()
            }
        model.load_parameters(given)
        if how != "interface":
            assert all(producer.asked[-1]["stream"] == ours and producer.deleted == 1 for producer in given.values())
        for name, value in model.parameters().items():
            assert np.array_equal(value, params[name]), (how, name)
        for name, view in model.operand_views().items():
            assert np.array_equal(view.numpy().view(np.uint32), bfloat16(params[name]).astype(np.uint32) << 16), (
                how,
                name,
            )


def test_other_dtypes_layouts_and_devices_pass_through_the_host(gpu):
    model, params = model_on_gpu(), model_on_gpu().parameters()
    on_cpu = Model(model.config, seed=4)
    columns = {name: np.array(value, order="F") for name, value in params.items()}
    halves = {name: bfloat16(value) for name, value in params.items()}

    def strides(value):
        return tuple(s // value.itemsize for s in value.strides)

    turned = {
        name: ByDlpack(gpu, gpu.upload(value.T), value.shape, abi.FLOAT, 32, strides=strides(value))
        for name, value in columns.items()
    }
    rounded = {
        name: ByDlpack(gpu, gpu.upload(value), value.shape, abi.BFLOAT, 16, strides=strides(value))
        for name, value in halves.items()
    }
    widened = {name: (value.astype(np.uint32) << 16).view(np.float32) for name, value in halves.items()}
    for target in (model, on_cpu):
        for given, want in [(turned, params), (rounded, widened), (model_on_gpu().views(), params)]:
            target.load_parameters({name: np.zeros_like(value) for name, value in params.items()})
            target.load_parameters(given)
            for name, value in target.parameters().items():
                assert np.array_equal(value, want[name]), name


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_ids_on_the_gpu_come_over_behind_their_writer(gpu, dtype, where):
    model = model_on_gpu() if where == "cuda" else random_model("byte260", "float32", **SIZES)
    ids, targets = (a.astype(dtype) for a in batch(model, 2, 12))
    expected = model.logits(ids)
    memory = gpu.upload(np.full_like(ids, 9999))
    source = gpu.upload(ids)
    gpu.keep_busy()
    gpu.copy(memory, source, ids.nbytes)
    assert np.array_equal(model.logits(ByInterface(memory, ids, gpu.stream)), expected)
    assert np.array_equal(model.logits(ByDlpack(gpu, memory, ids.shape, abi.INT, 8 * ids.itemsize)), expected)
    turned = np.array(ids, order="F")
    assert np.array_equal(model.logits(ByInterface(gpu.upload(turned.T), turned)), expected)
    on_gpu = ByInterface(memory, ids), ByInterface(gpu.upload(targets), targets)
    assert model.loss(*on_gpu).total == model.loss(ids, targets).total


def test_logits_stay_where_they_were_computed_and_outlive_the_model(gpu):
    model = model_on_gpu("bfloat16")
    ids, _ = batch(model, 2, 12)
    expected = model.logits(ids)
    view = model.logits_view(ids)
    assert view.dtype == "float32" and view.shape == (2, 12, 260)
    model.synchronise()
    assert np.array_equal(gpu.read(view.address, view.shape, np.float32), expected)
    capsule = view.__dlpack__(max_version=(1, 0))
    address = abi.opened(capsule).tensor.data
    del model, view
    gc.collect()
    assert np.array_equal(gpu.read(address, expected.shape, np.float32), expected)


def test_a_trainers_average_is_seen_without_a_copy(gpu):
    config = tiny("byte260", **SIZES, ema_decay=0.5, iterations=4, train_batch_ids=32, micro_batch_ids=32)
    trainer = Trainer(config, None, device="cuda")
    view = trainer.views("ema/")[f"ema/{NAME}"]
    before = view.numpy()
    trainer.step_on(*batch(trainer.model, 2, 16))
    trainer.model.synchronise()
    live = gpu.read(view.address, view.shape, np.float32)
    assert view.read_only and np.array_equal(live, trainer.ema[NAME]) and not np.array_equal(live, before)


@pytest.fixture
def torch():
    module = pytest.importorskip("torch", reason="needs torch")
    if not module.cuda.is_available():
        pytest.skip("needs torch with CUDA")
    return module


def test_torch_on_the_gpu_shares_views_and_writes_through_them(torch):
    model, twin = model_on_gpu("bfloat16"), model_on_gpu("bfloat16")
    ids, targets = batch(model, 2, 12)
    for name, view in model.views().items():
        tensor = torch.from_dlpack(view)
        assert tensor.data_ptr() == view.address and tensor.device == torch.device("cuda:0")
        assert torch.as_tensor(view, device="cuda").data_ptr() == view.address
        assert np.array_equal(tensor.cpu().numpy(), model.parameters()[name])
    operand = torch.from_dlpack(model.operand_views()[NAME])
    assert operand.dtype == torch.bfloat16 and torch.equal(
        operand, torch.from_dlpack(model.views()[NAME]).to(torch.bfloat16)
    )
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        big = torch.zeros(1 << 28, device="cuda")
        for _ in range(60):
            big.add_(1)
        torch.from_dlpack(model.views()[NAME]).mul_(2)
    model.refresh(side.cuda_stream)
    params = twin.parameters()
    params[NAME] *= 2
    twin.load_parameters({name: torch.from_numpy(value).cuda() for name, value in params.items()})
    on_gpu = torch.from_numpy(ids).cuda(), torch.from_numpy(targets).cuda()
    assert model.logits(on_gpu[0]).tobytes() == twin.logits(ids).tobytes()
    assert model.loss(*on_gpu).total == twin.loss(ids, targets).total


def test_cupy_shares_views_by_both_protocols():
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    model = model_on_gpu()
    view = model.views()[NAME]
    for array in (cupy.from_dlpack(view), cupy.asarray(view)):
        assert array.data.ptr == view.address and np.array_equal(cupy.asnumpy(array), model.parameters()[NAME])
    ids, _ = batch(model, 2, 12)
    assert np.array_equal(model.logits(cupy.asarray(ids)), model.logits(ids))
    model.load_parameters({name: cupy.asarray(value) for name, value in model.parameters().items()})


def test_jax_on_the_gpu_shares_views(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else it takes most of the GPU for itself
    jax = pytest.importorskip("jax", reason="needs jax")
    try:
        jax.devices("cuda")
    except RuntimeError:
        pytest.skip("needs jax with CUDA")
    model = model_on_gpu("bfloat16")
    view = model.views()[NAME]
    array = jax.dlpack.from_dlpack(view)
    assert array.unsafe_buffer_pointer() == view.address and np.array_equal(np.asarray(array), model.parameters()[NAME])
    ids, _ = batch(model, 2, 12)
    on_gpu = jax.device_put(ids.astype(np.int32), jax.devices("cuda")[0])
    assert np.array_equal(model.logits(on_gpu), model.logits(ids))
