"""Arrays cross without copies: the model's memory to NumPy, torch and JAX, and theirs into the model, on the CPU."""

import gc
import os
import subprocess
import sys
import threading

import dlpack_abi as abi
import numpy as np
import pytest
from test_model import batch, random_model, tiny

import bytegolf
from bytegolf import Array, Model, Trainer, _bytegolf

NAME = "tok_emb.weight"


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


# Out: views


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "how", [np.asarray, np.from_dlpack, lambda v: np.asarray(memoryview(v)), lambda v: v.__array__()]
)
def test_every_view_is_the_parameter_itself_to_numpy(how, dtype):
    model = random_model("byte260-jepa", dtype)
    copies, views = model.parameters(), model.views()
    assert list(views) == list(copies)
    for name, view in views.items():
        array = how(view)
        assert address(array) == view.address and array.dtype == view.dtype == dtype
        assert array.shape == view.shape == copies[name].shape and array.flags.c_contiguous and array.flags.writeable
        assert (view.ndim, view.size, view.nbytes) == (array.ndim, array.size, array.nbytes)
        assert np.array_equal(array, copies[name]) and np.array_equal(view.numpy(), copies[name])


def test_what_is_written_through_a_view_is_what_the_model_computes_with():
    model, other = random_model("byte260", "float32"), random_model("byte260", "float32")
    ids, _ = batch(model, 2, 12)
    before = model.logits(ids)
    np.asarray(model.views()[NAME])[:] *= 2
    model.refresh()
    params = other.parameters()
    params[NAME] *= 2
    other.load_parameters(params)
    assert not np.array_equal(model.logits(ids), before)
    assert model.logits(ids).tobytes() == other.logits(ids).tobytes()


def test_gradient_views_fill_as_backward_adds():
    model = random_model("byte260", "float32")
    ids, targets = batch(model, 2, 12)
    live = np.asarray(model.gradient_views()[NAME])
    assert not live.any()
    model.loss(ids, targets)
    model.backward()
    once = model.gradients()[NAME]
    assert once.any() and np.array_equal(live, once)
    model.zero_gradients()
    assert not live.any() and once.any()


def test_logits_views_lie_where_the_next_call_writes_and_outlive_a_new_plan():
    model = random_model("byte260", "float32")
    ids, others = batch(model, 2, 12)
    copy = model.logits(ids)
    view = model.logits_view(ids)
    live = np.asarray(view)
    assert live.shape == (2, 12, 260) and np.array_equal(live, copy)
    next_copy = model.logits(others)
    assert np.array_equal(live, next_copy) and not np.array_equal(live, copy)
    model.logits(ids[:1, :4])  # other sizes: the model's memory for activations is made anew
    del model, view
    gc.collect()
    assert np.array_equal(live, next_copy)


def test_operand_views_are_the_parameters_read_only_where_nothing_is_rounded():
    model = random_model("byte256", "float32")
    operands, views = model.operand_views(), model.views()
    for name, operand in operands.items():
        assert operand.address == views[name].address and operand.read_only and not views[name].read_only
    assert not np.asarray(operands[NAME]).flags.writeable and not np.from_dlpack(operands[NAME]).flags.writeable
    assert memoryview(operands[NAME]).readonly


def test_a_trainers_views_are_its_state_live_and_read_only():
    config = tiny("byte260", ema_decay=0.5, iterations=4, train_batch_ids=32, micro_batch_ids=32)
    trainer = Trainer(config, None)
    ids, targets = batch(trainer.model, 2, 16)
    views = trainer.views()
    assert {name.partition("/")[0] for name in views} >= {"weights", "first", "second", "ema"}
    assert list(trainer.views("ema/")) == [name for name in views if name.startswith("ema/")]
    assert views[f"weights/{NAME}"].address == trainer.model.views()[NAME].address
    live = np.asarray(views[f"ema/{NAME}"])
    before = live.copy()
    trainer.step_on(ids, targets)
    assert np.array_equal(live, trainer.ema[NAME]) and not np.array_equal(live, before)
    assert not live.flags.writeable
    del trainer, views
    gc.collect()
    assert np.isfinite(live).all()


def test_a_view_keeps_its_memory_when_the_model_is_gone():
    model = random_model("byte260", "float32")
    expected = model.parameters()[NAME]
    kept = [np.asarray(model.views()[NAME]), np.from_dlpack(model.views()[NAME]), model.views()[NAME]]
    del model
    gc.collect()
    made_anew = [random_model("byte260", "float32") for _ in range(3)]  # would take the memory, were it free
    for array in kept:
        assert np.array_equal(np.asarray(array), expected)
    assert made_anew


LEAK = """
import resource
import sys
from bytegolf import Config, Model
def mebibytes(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
config = Config.preset("byte260", num_layers=1, model_dim=16, num_heads=2, num_kv_heads=1, rope_dims=4, xsa_last_n=0,
                       bigram_vocab_size=1 << 19, bigram_dim=4, seq_len=16, eval_stride=8, micro_batch_ids=16, train_batch_ids=16)
import numpy as np
for i in range(12):
    view = Model(config).views()["bigram.embed.weight"]  # 8 MiB, and as much for gradients
    if i == 3: start = mebibytes()
    unused = view.__dlpack__(), view.__dlpack__(max_version=(1, 0))
    taken = np.from_dlpack(view), np.asarray(view), view.numpy()
    del unused, taken, view
print(mebibytes() - start)
"""


def test_capsules_that_nobody_takes_and_arrays_that_go_leave_no_memory_behind():
    done = subprocess.run(
        [sys.executable, "-c", LEAK], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert int(done.stdout) < 48, "8 models of 16 MiB would be 128"


# Out: DLPack by its specification


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 32), ("float64", 64)])
@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 3), (2, 0)])
def test_the_capsule_is_as_the_specification_has_it(version, dtype, bits):
    model = random_model("byte260", dtype)
    view = model.views()["blocks.1.mlp.fc.weight"]
    capsule = view.__dlpack__(max_version=version)
    versioned = version is not None and version[0] >= 1
    assert abi.name_of(capsule) == (b"dltensor_versioned" if versioned else b"dltensor")
    managed = abi.opened(capsule)
    tensor = managed.tensor
    assert tensor.data == view.address and tensor.byte_offset == 0
    assert (tensor.device.type, tensor.device.index) == view.__dlpack_device__() == (abi.CPU, 0)
    assert (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes) == (abi.FLOAT, bits, 1)
    assert abi.shape_of(tensor) == (view.shape, (view.shape[1], 1))
    if versioned:
        assert (managed.major, managed.minor, managed.flags) == (1, 0, 0)
        read_only = abi.opened(model.operand_views()[NAME].__dlpack__(max_version=version))
        copied = abi.opened(view.__dlpack__(max_version=version, copy=True))
        assert (read_only.flags, copied.flags) == (1, 2) and copied.tensor.data != view.address


def test_a_taken_capsule_is_renamed_by_numpy_and_not_freed_twice():
    view = random_model("byte260", "float32").views()[NAME]

    class Once:
        def __dlpack__(self, **asked):
            self.capsule = view.__dlpack__(**asked)
            return self.capsule

        def __dlpack_device__(self):
            return view.__dlpack_device__()

    once = Once()
    array = np.from_dlpack(once)
    assert abi.name_of(once.capsule).startswith(b"used_dltensor")
    del once
    gc.collect()
    assert address(array) == view.address and np.array_equal(array, view.numpy())


def test_a_taker_may_let_go_on_any_thread_and_without_the_interpreter():
    model = random_model("byte260", "float32")
    capsule = model.views()[NAME].__dlpack__(max_version=(1, 0))
    managed = abi.opened(capsule)
    abi.rename(capsule, b"used_dltensor_versioned")
    del capsule, model  # now only the taker keeps the model's memory
    gc.collect()
    assert np.isfinite(abi.ctypes.c_float.from_address(managed.tensor.data).value)
    # ctypes gives the interpreter's lock up while it calls.
    thread = threading.Thread(target=managed.deleter, args=(abi.ctypes.addressof(managed),))
    thread.start()
    thread.join()


def test_copies_are_made_only_when_asked():
    view = random_model("byte260", "float32").views()[NAME]
    assert address(np.from_dlpack(view, copy=False)) == view.address
    copy = np.from_dlpack(view, copy=True)
    assert address(copy) != view.address and np.array_equal(copy, view.numpy())
    assert address(np.asarray(view, dtype=np.float32)) == view.address
    assert np.asarray(view, dtype=np.float16).dtype == np.float16
    assert address(view.numpy()) != view.address


def test_what_cannot_be_had_is_refused_in_words():
    model = random_model("byte260", "float32")
    view, read_only = model.views()[NAME], model.operand_views()[NAME]
    for call, kind, words in [
        (lambda: view.__dlpack__(stream=5), ValueError, "stream must be None for an array on the CPU, got 5"),
        (lambda: view.__dlpack__(dl_device=(2, 0)), BufferError, "an array on cpu cannot go to DLPack device 2:0"),
        (lambda: read_only.__dlpack__(), BufferError, "read-only array needs DLPack 1.0"),
        (lambda: read_only.__dlpack__(max_version=(0, 8)), BufferError, "read-only array needs DLPack 1.0"),
        (lambda: view.__cuda_array_interface__, AttributeError, "float32 on cpu has no __cuda_array_interface__"),
        (lambda: Array(), TypeError, "No constructor defined"),
    ]:
        with pytest.raises(kind, match=words):
            call()
    assert not hasattr(view, "__cuda_array_interface__") and hasattr(view, "__array_interface__")
    assert repr(view) == "Array(float32, (260, 16), cpu)" and repr(read_only).endswith("cpu, read-only)")


# In


def test_host_memory_of_other_libraries_is_shared_not_copied():
    values = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    for kind in (abi.Managed, abi.ManagedVersioned):
        producer = abi.Producer.of(values[:, ::2], abi.INT, kind=kind)
        array = _bytegolf.host_array(producer)
        assert address(array) == address(values) and np.array_equal(array, values[:, ::2])
        assert not array.flags.writeable and producer.deleted == 0
        del array
        assert producer.deleted == 1
    assert _bytegolf.host_array(values) is values


def test_the_core_reads_int32_ids_where_they_lie():
    from bytegolf.ids import as_ids

    ids = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert address(as_ids(abi.Producer.of(ids, abi.INT), 2)) == address(ids)
    assert address(as_ids(memoryview(ids), 2)) == address(ids)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
def test_ids_and_targets_may_be_any_integers_behind_dlpack(dtype):
    model = random_model("byte256", "float64")
    ids, targets = (a % 100 for a in batch(model, 2, 8))
    code = abi.INT if np.issubdtype(dtype, np.signedinteger) else abi.UINT

    def foreign(array):
        return abi.Producer.of(np.ascontiguousarray(array.astype(dtype).T).T, code)

    assert np.array_equal(model.logits(foreign(ids)), model.logits(ids))
    assert np.array_equal(model.nll(foreign(ids)), model.nll(ids))
    assert model.loss(foreign(ids), foreign(targets)).total == model.loss(ids, targets).total
    stream = np.concatenate([ids[0], targets[0]])
    assert bytegolf.evaluate(model, abi.Producer.of(stream.astype(dtype), code), 8, 4).nats == pytest.approx(
        bytegolf.evaluate(model, stream, 8, 4).nats, rel=1e-15
    )


def test_parameters_come_in_from_any_library_to_the_bit():
    model = random_model("byte260-jepa", "float32")
    params = model.parameters()
    strided = {name: np.array(value, order="F") for name, value in params.items()}
    for given in (
        {name: abi.Producer.of(value, abi.FLOAT) for name, value in params.items()},
        {name: abi.Producer.of(value, abi.FLOAT, kind=abi.Managed) for name, value in strided.items()},
        {name: value.astype(np.float64).astype(">f8") for name, value in params.items()},
        model.views(),
    ):
        fresh = Model(model.config, seed=5)
        fresh.load_parameters(given)
        assert all(np.array_equal(value, params[name]) for name, value in fresh.parameters().items())
        assert all(p.deleted == 1 for p in given.values() if isinstance(p, abi.Producer))
    model.load_parameters(model.views())  # onto itself
    assert all(np.array_equal(value, params[name]) for name, value in model.parameters().items())


def test_bfloat16_comes_in_as_the_upper_half_of_float32():
    # Bits by hand: 1, -2.5, 2^-126 (smallest normal), 0x0001 (smallest subnormal of bfloat16 = 2^-133), largest finite, inf.
    bits = np.array([0x3F80, 0xC020, 0x0080, 0x0001, 0x7F7F, 0x7F80], dtype=np.uint16)
    expected = [1.0, -2.5, 2.0**-126, 2.0**-133, (2 - 2.0**-7) * 2.0**127, np.inf]
    got = _bytegolf.host_array(abi.Producer.of(bits, abi.BFLOAT))
    assert got.dtype == np.float32 and got.tolist() == expected
    column = _bytegolf.host_array(abi.Producer.of(bits.reshape(2, 3).T, abi.BFLOAT))
    assert column.tolist() == np.reshape(expected, (2, 3)).T.tolist()
    assert _bytegolf.host_array(abi.Producer.of(bits[:1].reshape(()), abi.BFLOAT)).shape == ()

    model = random_model("byte260", "float32")
    params = model.parameters()
    halves = {name: np.asarray(value.view(np.uint32) >> 16, dtype=np.uint16) for name, value in params.items()}
    model.load_parameters({name: abi.Producer.of(value, abi.BFLOAT) for name, value in halves.items()})
    for name, value in model.parameters().items():
        assert np.array_equal(value.view(np.uint32), halves[name].astype(np.uint32) << 16)


def test_what_cannot_be_read_is_refused_with_its_name_and_changes_nothing():
    model = random_model("byte260", "float32")
    params = model.parameters()
    array = np.zeros(params[NAME].shape, dtype=np.float32)

    class Silent:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **_):
            raise BufferError("it requires a gradient")

    class Lying(Silent):
        def __dlpack__(self, **_):
            return 5

    def damaged(**fields):
        producer = abi.Producer.of(array, abi.FLOAT)
        for name, value in fields.items():
            setattr(producer.managed if name == "major" else producer.managed.tensor, name, value)
        return producer

    used_capsule = abi.Producer.of(array, abi.FLOAT).__dlpack__()
    abi.rename(used_capsule, b"used_dltensor_versioned")

    class Used(Silent):
        def __dlpack__(self, **_):
            return used_capsule

    for given, words in [
        (Silent(), "it requires a gradient"),
        (Lying(), "gave no DLPack capsule"),
        (Used(), "used up or unknown"),
        (damaged(major=9), "version 9 of DLPack"),
        (damaged(ndim=-1), "damaged"),
        (damaged(ndim=65), "damaged"),
        (damaged(device=abi.Device(8, 0)), r"neither the CPU nor a CUDA GPU .*8"),
        (damaged(dtype=abi.Type(abi.FLOAT, 32, 4)), "type that is not read"),
        (damaged(dtype=abi.Type(5, 64, 1)), "code 5 of 64 bits"),
        (abi.Producer.of(array.view(np.int32), abi.INT), "does not hold floating-point numbers"),
        (abi.Producer.of(array[:3], abi.FLOAT), r"has shape \(3, 16\)"),
        (object(), "does not hold floating-point numbers|has shape"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            model.load_parameters({**params, NAME: given})
        assert NAME in str(caught.value)
        assert all(np.array_equal(value, params[name]) for name, value in model.parameters().items())
    with pytest.raises(ValueError, match="targets cannot be read: it requires a gradient"):
        model.loss(np.zeros((1, 4), int), Silent())
    with pytest.raises(ValueError, match="ids must be integers, got float32"):
        model.logits(abi.Producer.of(array, abi.FLOAT))


@pytest.mark.skipif(_bytegolf.gpu_info()["built"], reason="this build has CUDA kernels")
def test_an_array_on_a_gpu_is_refused_by_a_build_without_cuda():
    class OnGpu:
        __cuda_array_interface__ = {"shape": (1, 4), "typestr": "<i4", "data": (4096, False), "version": 3}  # noqa: RUF012

    with pytest.raises(ValueError, match="built without CUDA"):
        random_model("byte260").logits(OnGpu())


# Real libraries


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs torch")


def test_torch_shares_the_models_memory_both_ways(torch):
    model = random_model("byte260-jepa", "float32")
    views, params = model.views(), model.parameters()
    for name, view in views.items():
        tensor = torch.from_dlpack(view)
        assert tensor.data_ptr() == view.address and tuple(tensor.shape) == view.shape and tensor.dtype == torch.float32
        assert np.array_equal(tensor.numpy(), params[name])
    tensor = torch.from_dlpack(views[NAME])
    tensor.mul_(3)
    assert np.array_equal(model.parameters()[NAME], params[NAME] * 3)
    del model, views
    gc.collect()
    assert np.array_equal(tensor.numpy(), params[NAME] * 3)


def test_torch_tensors_are_ids_and_parameters(torch):
    model = random_model("byte260", "float32")
    ids, targets = batch(model, 2, 8)
    t_ids, t_targets = torch.from_numpy(ids), torch.from_numpy(targets)
    assert np.array_equal(model.logits(t_ids), model.logits(ids))
    assert model.loss(t_ids.int(), t_targets).total == model.loss(ids, targets).total
    small = torch.from_numpy(ids.astype(np.int32))
    assert address(_bytegolf.host_array(small)) == small.data_ptr()
    params = model.parameters()
    state = {name: torch.from_numpy(value).to(torch.bfloat16) for name, value in params.items()}
    model.load_parameters(state)
    for name, value in model.parameters().items():
        assert np.array_equal(value, state[name].float().numpy())
    with pytest.raises(ValueError, match=r"requires? grad"):
        model.load_parameters({**state, NAME: state[NAME].float().requires_grad_()})


def test_jax_shares_the_models_memory_and_gives_ids_and_parameters(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # where there is a GPU it would take most of it
    pytest.importorskip("jax", reason="needs jax")
    import jax
    import jax.numpy as jnp

    cpu = jax.devices("cpu")[0]
    model = random_model("byte260", "float32")
    view = model.views()[NAME]
    with jax.default_device(cpu):
        array = jax.dlpack.from_dlpack(view)
        assert array.shape == view.shape and array.dtype == jnp.float32
        assert array.unsafe_buffer_pointer() == view.address
        expected = model.parameters()
        ids, _ = batch(model, 2, 8)
        small = jnp.asarray(ids, dtype=jnp.int32)
        assert np.array_equal(model.logits(small), model.logits(ids))
        assert address(_bytegolf.host_array(small)) == small.unsafe_buffer_pointer()
        rounded = {name: jnp.asarray(value).astype(jnp.bfloat16) for name, value in expected.items()}
        model.load_parameters(rounded)
        for name, value in model.parameters().items():
            assert np.array_equal(value, np.asarray(rounded[name].astype(jnp.float32)))
    del model, view
    gc.collect()
    assert array.shape == (260, 16)
