"""Types of the C++ core; made by scripts/make_stub.py."""

import collections.abc
import typing

import numpy
import numpy.typing
import typing_extensions

__all__: list[str] = [
    "SHARD_HEADER_BYTES",
    "SHARD_MAGIC",
    "SHARD_VERSION",
    "Array",
    "Comm",
    "Config",
    "Evaluation",
    "FormatError",
    "Generation",
    "Listener",
    "Loader",
    "Losses",
    "Model",
    "NumericsError",
    "ShardSet",
    "SystemError",
    "Trainer",
    "add_cuda_library_folder",
    "add_gemm_library_folder",
    "attention",
    "bench_group",
    "bench_groups",
    "bench_rates",
    "cpu_target",
    "cuda_library_report",
    "dequantise_tensor",
    "gemm_libraries",
    "gpu_info",
    "host_array",
    "nccl_comm",
    "nccl_unique_id",
    "nearest_option",
    "newton_schulz",
    "option_table",
    "quantise_tensor",
    "read_artifact",
    "rms_norm",
    "schedule",
    "shuffled",
    "socket_comm",
    "softmax_xent",
    "vocab",
    "write_artifact",
    "zstd_version",
]

class FormatError(ValueError):
    """
    Bytes from outside (a shard, artifact or checkpoint) do not match their format. The message names the path and the offset or tensor.
    """

class NumericsError(ArithmeticError):
    """
    A number is NaN, infinite, or too large for what stores it. The message names the step or tensor; no weight, moment or average has changed.
    """

class SystemError(OSError):
    """
    The system refused memory, a file or a device. The message says what was asked for.
    """

class Config:
    """
    Options of a run; see option_table(). Python treats it as immutable: bytegolf.Config.replace.
    """
    @staticmethod
    def absent() -> Config:
        """
        What a stored text without any option means: each option's first default, as before it was declared.
        """
    @staticmethod
    def parse(text: str, source: str, base: Config) -> Config:
        """
        `name = value` lines laid over `base`; ValueError naming source, line and option.
        """
    @staticmethod
    def preset(name: str) -> Config:
        """
        A preset; ValueError listing the known names.
        """
    @staticmethod
    def preset_names() -> list[str]:
        """
        Names of the presets.
        """
    @staticmethod
    def stored(options: str, source: str) -> Config:
        """
        Options as some version stored them, over `absent()`; ValueError naming source, line and option, and that a newer version wrote an option that is unknown here.
        """
    def __eq__(self, other: object) -> bool: ...
    def __init__(self) -> None: ...
    def canonical(self, sections: collections.abc.Sequence[str] = ["model", "train", "run"]) -> str:
        """
        The options that differ from `absent()`, one a line, by name: equal text for equal meaning in every version.
        """
    def copy(self) -> Config:
        """
        Another Config of the same options.
        """
    def differences(
        self, other: Config, sections: collections.abc.Sequence[str] = ["model", "train", "run"]
    ) -> list[tuple[str, str, str]]:
        """
        (name, own value, the other's value) of each option in which `other` differs, as text.
        """
    def get(self, name: str) -> str:
        """
        Text form of one option.
        """
    def set(self, name: str, value: str) -> None:
        """
        Sets one option from its text form; ValueError when unknown or out of range.
        """
    def text(self, sections: collections.abc.Sequence[str] = ["model", "train", "run"], docs: bool = False) -> str:
        """
        TOML of the sections asked for, one option a line.
        """
    def validate(self) -> None:
        """
        ValueError when options contradict each other.
        """
    @property
    def activation(self) -> str:
        """
        name; non-linearity of the MLP
        """
    @property
    def activation_slope(self) -> float:
        """
        ratio; slope of leaky_relu2 below zero, before squaring
        """
    @property
    def adam_eps(self) -> float:
        """
        gradient; added outside Adam's root
        """
    @property
    def adam_wd(self) -> float:
        """
        1; decoupled weight decay of tables, vectors and scalars, times step size
        """
    @property
    def architecture(self) -> str:
        """
        name; how the parts of a model are put together
        """
    @property
    def attn_windows(self) -> str:
        """
        ids per layer; e.g. "256,256,0", repeated over the layers; 0 or empty means unlimited
        """
    @property
    def beta1(self) -> float:
        """
        ratio; Adam's first decay
        """
    @property
    def beta2(self) -> float:
        """
        ratio; Adam's second decay
        """
    @property
    def bigram_dim(self) -> int:
        """
        elements; width of a bigram row
        """
    @property
    def bigram_hash(self) -> str:
        """
        name; xor: byte260's hash, product: byte256's
        """
    @property
    def bigram_init(self) -> str:
        """
        name; initial values of the bigram table; zero never learns in byte260 (kept for parity)
        """
    @property
    def bigram_vocab_size(self) -> int:
        """
        buckets; size of the bigram hash table; 0 means none
        """
    @property
    def block(self) -> str:
        """
        layer names; what a block is made of, in order; "attention mlp | mlp" alternates over the blocks
        """
    @property
    def bos_id(self) -> int:
        """
        id that starts a document, -1 where the vocabulary has none
        """
    @property
    def byte_embed_dim(self) -> int:
        """
        elements; width of byte embeddings under patching
        """
    @property
    def byte_offset(self) -> int:
        """
        id of byte 0
        """
    @property
    def checkpoint_every(self) -> int:
        """
        steps; between checkpoints; 0 means only on interruption and at the end
        """
    @property
    def device(self) -> str:
        """
        name; where to compute; auto: a GPU when one can be used, else the CPU
        """
    @property
    def doc_mask(self) -> bool:
        """
        flag; attention stays inside its document (bos starts one); smear and bigram still see one id back
        """
    @property
    def dtype(self) -> str:
        """
        name; numbers to compute in; auto: bfloat16 on cuda, float32 on cpu
        """
    @property
    def ema_decay(self) -> float:
        """
        ratio; decay of the averaged weights; 0 means no average
        """
    @property
    def eval_stride(self) -> int:
        """
        ids; stride of the sliding score of record; above seq_len it counts as seq_len
        """
    @property
    def family(self) -> str:
        """
        name; the published program whose parameter names, first values and order of input stages hold
        """
    @property
    def grad_clip_norm(self) -> float:
        """
        gradient norm; larger gradients are scaled down to it; 0 means no clipping
        """
    @property
    def head_lr(self) -> float:
        """
        step size; an untied output matrix
        """
    @property
    def iterations(self) -> int:
        """
        steps; length of the run
        """
    @property
    def jepa_chunk_size(self) -> int:
        """
        ids; length of a JEPA chunk; 0 means no JEPA
        """
    @property
    def jepa_lambda_max(self) -> float:
        """
        ratio; largest weight of the JEPA losses
        """
    @property
    def jepa_latent_dim(self) -> int:
        """
        elements; width of a chunk's latent
        """
    @property
    def jepa_lr(self) -> float:
        """
        step size; JEPA projector, predictor and injection
        """
    @property
    def jepa_phase1_frac(self) -> float:
        """
        fraction; of the run before the weight of the JEPA losses starts to rise
        """
    @property
    def jepa_phase2_frac(self) -> float:
        """
        fraction; of the run over which that weight rises; afterwards it is zero
        """
    @property
    def jepa_pred_k(self) -> int:
        """
        ids; the latent head predicts the embedding k targets ahead; 0 means none
        """
    @property
    def jepa_proj_hidden(self) -> int:
        """
        elements; hidden width of the JEPA projector
        """
    @property
    def jepa_sigreg_weight(self) -> float:
        """
        ratio; weight of SIGReg beside the prediction loss
        """
    @property
    def jepa_weight(self) -> float:
        """
        ratio; weight of the latent head's loss
        """
    @property
    def ln_scale(self) -> bool:
        """
        flag; scales normed inputs of block l by 1/sqrt(l + 1)
        """
    @property
    def log_every(self) -> int:
        """
        steps; between log lines
        """
    @property
    def logit_softcap(self) -> float:
        """
        nats; logits = cap * tanh(raw / cap); 0 means no cap
        """
    @property
    def matrix_lr(self) -> float:
        """
        step size; Muon matrices
        """
    @property
    def micro_batch_ids(self) -> int:
        """
        ids; read per forward and backward, a multiple of seq_len and a divisor of train_batch_ids: gradients accumulate
        """
    @property
    def mlp_dim(self) -> int:
        """
        elements; MLP width F
        """
    @property
    def mlp_mult(self) -> float:
        """
        ratio; MLP width F over model_dim
        """
    @property
    def model_dim(self) -> int:
        """
        elements; width D of the residual stream
        """
    @property
    def muon_momentum(self) -> float:
        """
        ratio; Muon's momentum after its warm-up
        """
    @property
    def muon_momentum_warmup_start(self) -> float:
        """
        ratio; Muon's momentum at step 0
        """
    @property
    def muon_momentum_warmup_steps(self) -> int:
        """
        steps; length of the momentum's linear warm-up
        """
    @property
    def muon_wd(self) -> float:
        """
        1; decoupled weight decay of Muon matrices, times step size
        """
    @property
    def newton_schulz_steps(self) -> int:
        """
        iterations; of Newton-Schulz
        """
    @property
    def norm_eps(self) -> float:
        """
        mean square; added under the root of every norm
        """
    @property
    def num_heads(self) -> int:
        """
        heads; query heads H
        """
    @property
    def num_kv_heads(self) -> int:
        """
        heads; key/value heads G, a divisor of num_heads
        """
    @property
    def num_layers(self) -> int:
        """
        blocks; transformer blocks L, of which L/2 encode and the rest decode
        """
    @property
    def pack_scheme(self) -> str:
        """
        name; quantisation of the artifact
        """
    @property
    def pack_weights(self) -> str:
        """
        name; which weights become the artifact; best: lowest whole-chunk BPB on val_data
        """
    @property
    def parallel_last_n(self) -> int:
        """
        blocks; in the last n blocks all layers read the same normed stream
        """
    @property
    def patch_size(self) -> int:
        """
        bytes; static patch length K; 1 means none
        """
    @property
    def q_gain_init(self) -> float:
        """
        ratio; initial value of the learned gain on normed queries
        """
    @property
    def rank_check_every(self) -> int:
        """
        steps; between checks that all ranks hold the same bits; 0 means none
        """
    @property
    def rank_timeout_s(self) -> float:
        """
        seconds; a rank that makes no progress for this long ends the run
        """
    @property
    def rope_base(self) -> float:
        """
        ratio; longest rotary wavelength over 2 pi
        """
    @property
    def rope_dims(self) -> int:
        """
        dims; leading dims of each head that rotate, even; 0 means all
        """
    @property
    def rope_train_len(self) -> int:
        """
        ids; longer inputs stretch rope_base
        """
    @property
    def scalar_lr(self) -> float:
        """
        step size; vectors and scalars
        """
    @property
    def seed(self) -> int:
        """
        number; decides initial weights, data order and SIGReg directions
        """
    @property
    def seq_len(self) -> int:
        """
        ids; window T that is trained and scored
        """
    @property
    def shuffle(self) -> bool:
        """
        flag; windows in an order drawn from the seed, else in shard order
        """
    @property
    def smear(self) -> bool:
        """
        flag; learned mix of each position with the one before
        """
    @property
    def swa_every(self) -> int:
        """
        steps; between SWA snapshots
        """
    @property
    def swa_last_frac(self) -> float:
        """
        fraction; SWA averages snapshots of this last part of the run; 0 means none
        """
    @property
    def tie_embeddings(self) -> bool:
        """
        flag; the output matrix is the token table
        """
    @property
    def tied_embed_lr(self) -> float:
        """
        step size; token and bigram tables
        """
    @property
    def track(self) -> str:
        """
        names; trackers fed from log.jsonl: tensorboard, wandb, trackio, separated by commas; empty means none
        """
    @property
    def train_batch_ids(self) -> int:
        """
        ids; read per optimiser step over all ranks
        """
    @property
    def train_budget_s(self) -> float:
        """
        seconds; training ends before this; 0 means no limit
        """
    @property
    def train_data(self) -> str:
        """
        path; shard folder, file or glob to train on
        """
    @property
    def val_data(self) -> str:
        """
        path; shard folder, file or glob to score
        """
    @property
    def val_every(self) -> int:
        """
        steps; between scorings during training; 0 means only at the end
        """
    @property
    def val_ids(self) -> int:
        """
        ids; scored each time during training; 0 means all
        """
    @property
    def visits(self) -> str:
        """
        block numbers; the order blocks run in, e.g. "0 1 (2 3)x2 4": 2 and 3 run twice with the same weights; empty means each once
        """
    @property
    def visits_start_frac(self) -> float:
        """
        fraction; of the run in which each block runs once, before the order of visits holds
        """
    @property
    def vocab_name(self) -> str:
        """
        name of the vocabulary: option vocabulary, or the family's
        """
    @property
    def vocab_size(self) -> int:
        """
        ids; 260 or 256, by vocabulary
        """
    @property
    def vocabulary(self) -> str:
        """
        name; what ids mean; auto: the vocabulary of the family
        """
    @property
    def warmdown_iters(self) -> int:
        """
        steps; over which the step size falls at the end
        """
    @property
    def xsa_last_n(self) -> int:
        """
        blocks; the last n blocks remove each value's own direction (XSA)
        """

class Array:
    """
    A view of the core's memory, in C order, that keeps its owner alive. Any library that knows DLPack, NumPy's or CUDA's array interface shares it without a copy; numpy() copies it.
    """
    def __array__(self, dtype: typing.Any = None, copy: typing.Any = None) -> typing.Any:
        """
        The values as a NumPy array that shares the memory; TypeError on a GPU.
        """
    def __dlpack__(
        self,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> typing_extensions.CapsuleType:
        """
        A DLPack capsule, see the array API standard. On a GPU `stream` (None: the default one) waits for the model's work. BufferError when the request cannot be met.
        """
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __repr__(self) -> str: ...
    def numpy(self) -> numpy.ndarray:
        """
        A fresh NumPy array of the values; float32 where dtype is bfloat16. Waits for the model's work.
        """
    @property
    def __array_interface__(self) -> dict[str, typing.Any]: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, typing.Any]: ...
    @property
    def address(self) -> int:
        """
        Of the first element, in the memory of `device`.
        """
    @property
    def device(self) -> str:
        """
        cpu, or cuda:N.
        """
    @property
    def dtype(self) -> str:
        """
        float32, float64, bfloat16 or int32.
        """
    @property
    def nbytes(self) -> int:
        """
        Bytes of all elements.
        """
    @property
    def ndim(self) -> int:
        """
        Dimensions.
        """
    @property
    def read_only(self) -> bool:
        """
        Whether consumers may only read.
        """
    @property
    def shape(self) -> tuple[typing.Any, ...]:
        """
        Elements along each dimension.
        """
    @property
    def size(self) -> int:
        """
        Elements.
        """

class Losses:
    """
    Means over the scored positions, in nats; total is what backward() differentiates.
    """
    def __repr__(self) -> str: ...
    def as_dict(self) -> dict[str, typing.Any]:
        """
        Name -> nats, total last.
        """
    @property
    def ce(self) -> float:
        """
        Cross-entropy per target.
        """
    @property
    def jepa_pred(self) -> float:
        """
        Prediction loss of JEPA, unweighted; 0 without JEPA.
        """
    @property
    def jepa_sigreg(self) -> float:
        """
        SIGReg loss of JEPA, unweighted; 0 without JEPA.
        """
    @property
    def latent(self) -> float:
        """
        Loss of the latent head, unweighted; 0 without one.
        """
    @property
    def total(self) -> float:
        """
        The weighted sum of all parts.
        """

class Model:
    """
    Parameters, forward, loss and backward; see bytegolf.Model.
    """
    def __init__(
        self, config: Config, device: str = "cpu", dtype: str = "float32", seed: int = 0, threads: int = 0
    ) -> None: ...
    def backward(self, scale: float = 1.0) -> None: ...
    def gradient_views(self) -> dict[str, typing.Any]: ...
    def gradients(self) -> dict[str, typing.Any]: ...
    def load_parameters(self, params: dict[str, typing.Any]) -> None: ...
    def logits(self, ids: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int32]) -> numpy.ndarray: ...
    def logits_view(self, ids: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int32]) -> Array: ...
    def loss(
        self,
        ids: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int32],
        targets: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int32],
        jepa_lambda: float = 0.0,
        sigreg_directions: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.float64] | None = None,
    ) -> Losses: ...
    def nll(
        self, ids: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int32]
    ) -> numpy.typing.NDArray[numpy.float64]: ...
    def operand_views(self) -> dict[str, typing.Any]: ...
    def parameters(self) -> dict[str, typing.Any]: ...
    def print_plan(self) -> str:
        """
        Where the activations of the last call are: a table of lifetime, name, shape, offset and bytes.
        """
    def refresh(self, stream: int | None = None) -> None: ...
    def specs(self) -> list[typing.Any]:
        """
        One dict per parameter: name, shape, group (optimiser), codec, averaged.
        """
    def synchronise(self) -> None: ...
    def views(self) -> dict[str, typing.Any]: ...
    def zero_gradients(self) -> None:
        """
        Sets all gradients to 0; backward() adds to them.
        """
    @property
    def config(self) -> Config:
        """
        The options this model was made with.
        """
    @property
    def device(self) -> str:
        """
        Device of the parameters: cpu or cuda.
        """
    @property
    def dtype(self) -> str:
        """
        Dtype of the computation: float32, float64 or bfloat16.
        """
    @property
    def num_parameters(self) -> int:
        """
        Elements of all parameters.
        """
    @property
    def threads(self) -> int:
        """
        Threads that work on the CPU.
        """

class Generation:
    """
    Bytes that follow prompts, one of each row at a time; see bytegolf.Model.
    """
    def __init__(
        self,
        model: Model,
        prompts: collections.abc.Sequence[bytes],
        n: int,
        temperature: float = 1.0,
        seed: int = 0,
        top_p: float = 1.0,
        stop: collections.abc.Sequence[bytes] = [],
        cache: bool = True,
    ) -> None: ...
    def advance(self) -> list[tuple[int, bytes]]: ...
    def end(self, row: int) -> None: ...
    def text(self, row: int) -> bytes: ...

class Evaluation:
    """
    Scores a stream of ids a few windows at a time; see bytegolf.evaluate.
    """
    def __init__(
        self,
        model: Model,
        stream: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int32],
        window: int,
        stride: int,
        part: int = 0,
        parts: int = 1,
    ) -> None: ...
    def advance(self) -> bool: ...
    @property
    def bpb(self) -> float: ...
    @property
    def bytes(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def nats(self) -> float: ...
    @property
    def nll(self) -> numpy.typing.NDArray[numpy.float64]: ...
    @property
    def targets(self) -> int: ...
    @property
    def total(self) -> int: ...

class ShardSet:
    """
    One checked stream of ids over shard files or an array.
    """
    def __init__(self, data: typing.Any, family: str = "byte260", split: str = "") -> None:
        """
        data: a file, folder or glob, a list of those, or a 1-d integer array of ids. split: 'train', 'val' or '' picks in a folder that holds both. ValueError or FormatError names path and offset.
        """
    def __len__(self) -> int: ...
    def check(self, threads: int = 1) -> None:
        """
        Reads every id once; FormatError names shard and offset of one outside the vocabulary.
        """
    def read(self, first: int, count: int) -> numpy.typing.NDArray[numpy.int32]:
        """
        Ids first..first+count-1, int32.
        """
    @property
    def family(self) -> str: ...
    @property
    def shards(self) -> list[typing.Any]:
        """
        List of (path, ids).
        """

class Loader:
    """
    Batches x, y (B, T) as a pure function of (seed, step, micro, rank), prefetched by a thread.
    """
    def __init__(
        self,
        data: typing.Any,
        seq_len: int,
        micro_batch_ids: int,
        *,
        family: str = "byte260",
        micro_batches: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = False,
        prefetch: int = 3,
        split: str = "",
    ) -> None:
        """
        data as for ShardSet, or a ShardSet. B = micro_batch_ids / seq_len rows; micro_batches per step and rank.
        """
    def batch(
        self, step: int, micro: int = 0
    ) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32]]:
        """
        (x, y), int32 (B, T), copies. Asked in order they are ready; any other place is a seek.
        """

class Comm:
    """
    One rank's end of a group that sums gradients; see csrc/ranks/comm.h.
    """
    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...

class Listener:
    """
    A TCP port of this process that other ranks connect to.
    """
    def __init__(self, host: str = "") -> None:
        """
        Binds a free port of `host`, or of all addresses of this machine. OSError when it cannot.
        """
    @property
    def port(self) -> int: ...

class Trainer:
    """
    The training loop of the core; use bytegolf.Trainer.
    """
    def __init__(self, config: Config, model: Model, data: ShardSet | None, comm: Comm | None = None) -> None:
        """
        data: a ShardSet, or None for step_on alone. Works on the model's own parameters, without a copy.
        """
    def agree(self, elapsed_s: float, mean_step_s: float, predicted_step_s: float) -> None:
        """
        The next step, and `done` before it, use this clock: that of rank 0, on all ranks.
        """
    def fingerprints(self) -> dict[str, typing.Any]:
        """
        Name of each tensor of state() -> a 64-bit number of its bits: equal on all ranks as long as they agree.
        """
    def load_state(
        self,
        arrays: dict[str, typing.Any],
        *,
        step: int,
        snapshots: int,
        bytes: int,
        elapsed_s: float,
        first_step_s: float,
        longest_step_s: float,
    ) -> None:
        """
        Puts state() and progress back. ValueError naming the tensor, and nothing changed, when they do not fit.
        """
    def pause(self) -> None:
        """
        Stops the run's clock until the next step.
        """
    def restore(
        self, *, step: int, snapshots: int, bytes: int, elapsed_s: float, first_step_s: float, longest_step_s: float
    ) -> None:
        """
        Continues from this progress with the tensors as they are.
        """
    def share_state(self) -> None:
        """
        Copies rank 0's weights, moments and averages to all ranks.
        """
    def state(self, prefix: str = "") -> dict[str, typing.Any]:
        """
        Dict of the run's tensors whose names start with `prefix`, read-only; on the CPU views that change with the next step, on a GPU copies.
        """
    def step(self) -> dict[str, typing.Any]:
        """
        One step on the run's data. Dict of step, losses, grad_norm, lr_factor, ...; NumericsError names the tensor.
        """
    def step_on(
        self,
        ids: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int32],
        targets: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int32],
        micro_batches: int = 1,
        sigreg_directions: typing.Any = None,
    ) -> dict[str, typing.Any]:
        """
        One step on int32 ids and targets (B, T), B cut into micro_batches. Directions (latent, 256) or None.
        """
    def views(self, prefix: str = "") -> dict[str, typing.Any]:
        """
        Dict of the same tensors as read-only Arrays, which change with the next step, on any device.
        """
    @property
    def clock(self) -> tuple[float, float, float]:
        """
        (elapsed_s, mean_step_s, predicted_step_s): what decides whether another step may begin.
        """
    @property
    def done(self) -> bool:
        """
        Whether no further step may begin.
        """
    @property
    def marks(self) -> int:
        """
        Grows with every piece of progress inside a step; any thread may ask.
        """
    @property
    def progress(self) -> dict[str, typing.Any]:
        """
        Dict of step, snapshots, bytes, elapsed_s, first_step_s, longest_step_s.
        """

def add_cuda_library_folder(folder: str) -> None:
    """
    A folder to search for CUDA libraries before the system's; only before their first use.
    """

def add_gemm_library_folder(folder: str) -> None:
    """
    A folder to search for GEMM libraries before the system's; only before their first use.
    """

@typing.overload
def attention(
    q: numpy.typing.NDArray[numpy.float64],
    k: numpy.typing.NDArray[numpy.float64],
    v: numpy.typing.NDArray[numpy.float64],
    window: int = 0,
    threads: int = 0,
    device: str = "cpu",
    dtype: str = "",
) -> numpy.ndarray:
    """
    kernels/attention.h on arrays (B, T, H, d) and (B, T, G, d); see bytegolf.kernels.
    """

@typing.overload
def attention(
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    window: int = 0,
    threads: int = 0,
    device: str = "cpu",
    dtype: str = "",
) -> numpy.ndarray:
    """
    kernels/attention.h on arrays (B, T, H, d) and (B, T, G, d); see bytegolf.kernels.
    """

def bench_group(
    group: str,
    rows: int,
    length: int,
    budget_s: float = 1.0,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int = 0,
    library: str = "builtin",
) -> list[typing.Any]:
    """
    Checks the pieces of work of a group on `rows` rows of `length` ids against the CPU in float64, then times them: a dict each with group, what, flops, bytes, ids, error (None where nothing was checked), tolerance, checked_at, memory_bytes, and the seconds and cpu_seconds (none on a GPU) of each call. budget_s: of timed calls, for each piece on a GPU, for the group on the CPU. threads, library: on the CPU.
    """

def bench_groups(device: str = "cpu") -> list[str]:
    """
    Names of the groups that bench_group measures on the device.
    """

def bench_rates(
    budget_s: float = 0.5, device: str = "cpu", dtype: str = "float32", threads: int = 0, library: str = "builtin"
) -> dict[str, typing.Any]:
    """
    gemm_flops (a large product of random numbers, per second), gemm_flops_cpu (the same per second of CPU time; 0 on a GPU) and copy_bytes (a large copy, read plus written, per second).
    """

def cpu_target() -> str:
    """
    Name of the instruction set that Highway's kernels run with on this CPU.
    """

def cuda_library_report() -> list[typing.Any]:
    """
    One dict per library that CUDA kernels call: name, path, version, problem (why it cannot be used), always (false: only runs on several GPUs need it).
    """

def dequantise_tensor(
    q: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.int8], scale: numpy.ndarray, threads: int = 0
) -> numpy.typing.NDArray[numpy.float32]:
    """
    float32 array q * scale, row by row.
    """

def gemm_libraries() -> list[typing.Any]:
    """
    One dict per library that can multiply matrices: name, available, detail (version and core, or why not).
    """

def gpu_info() -> dict[str, typing.Any]:
    """
    built (with CUDA kernels), unusable (why no GPU can be used; empty when one can), driver and runtime (versions), gpus (name, capability, total_bytes of each visible one).
    """

def host_array(values: typing.Any, what: str = "the array") -> numpy.ndarray:
    """
    Any library's array (or nested lists) as NumPy's: host memory is shared, a GPU's copied, bfloat16 widened to float32. ValueError naming `what` when it cannot be read.
    """

def nccl_comm(model: Model, rank: int, world: int, unique_id: bytes) -> Comm:
    """
    Connects the ranks of a run on GPUs, each on its model's; returns when all have called it.
    """

def nccl_unique_id() -> bytes:
    """
    A new NCCL id, made by rank 0. OSError where NCCL is not found.
    """

def nearest_option(name: str) -> str: ...
@typing.overload
def newton_schulz(
    g: numpy.typing.NDArray[numpy.float64], steps: int = 5, threads: int = 0, device: str = "cpu", dtype: str = ""
) -> numpy.ndarray:
    """
    The Newton-Schulz iteration of Muon on a float64 or float32 matrix, on a device and in a dtype (its own when empty); a fresh matrix of singular values near 1.
    """

@typing.overload
def newton_schulz(
    g: numpy.typing.NDArray[numpy.float32], steps: int = 5, threads: int = 0, device: str = "cpu", dtype: str = ""
) -> numpy.ndarray:
    """
    The Newton-Schulz iteration of Muon on a float64 or float32 matrix, on a device and in a dtype (its own when empty); a fresh matrix of singular values near 1.
    """

def option_table() -> list[typing.Any]:
    """
    One dict per option: section, type, name, low, high, choices, doc.
    """

def quantise_tensor(
    name: str,
    weights: typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.float32],
    codec: str,
    scheme: str,
    threads: int = 0,
) -> tuple[typing.Any, ...]:
    """
    (int8 array, float16 scales) of a float32 tensor, or (float16 array, None) when it stays float. `codec` is what its declaration says: matrix or other.
    """

def read_artifact(path: str, threads: int = 0) -> dict[str, typing.Any]:
    """
    An artifact as a dict: config, tensors (name, dtype, shape, coding, stored_bytes, bytes), file_bytes, frame_bytes, model_bytes.
    """

@typing.overload
def rms_norm(
    x: numpy.typing.NDArray[numpy.float64],
    scale: float = 1.0,
    eps: float = 1e-07,
    threads: int = 0,
    device: str = "cpu",
    dtype: str = "",
) -> numpy.ndarray:
    """
    kernels/rms_norm.h on an array (N, D); see bytegolf.kernels.
    """

@typing.overload
def rms_norm(
    x: numpy.typing.NDArray[numpy.float32],
    scale: float = 1.0,
    eps: float = 1e-07,
    threads: int = 0,
    device: str = "cpu",
    dtype: str = "",
) -> numpy.ndarray:
    """
    kernels/rms_norm.h on an array (N, D); see bytegolf.kernels.
    """

def schedule(
    config: Config, step: int, elapsed_s: float = 0.0, mean_step_s: float = 0.0, predicted_step_s: float = 0.0
) -> dict[str, typing.Any]:
    """
    Values of the schedules at step `step` (from 0): lr_factor, muon_momentum, jepa_lambda, revisits, takes_snapshot, is_over.
    """

def shuffled(i: int, n: int, seed: int, epoch: int) -> int:
    """
    The i-th of n in the pseudo-random order of (seed, epoch).
    """

def socket_comm(
    listener: Listener, rank: int, peers: collections.abc.Sequence[tuple[str, int]], key: str, timeout_s: float
) -> Comm:
    """
    Connects the ranks of a CPU run: peers are (host, port) by rank, key is the same on all. OSError names the ranks that did not come.
    """

@typing.overload
def softmax_xent(
    logits: numpy.typing.NDArray[numpy.float64],
    targets: numpy.typing.NDArray[numpy.int32],
    threads: int = 0,
    device: str = "cpu",
    dtype: str = "",
) -> numpy.ndarray:
    """
    kernels/softmax_xent.h on arrays (N, V) and (N); see bytegolf.kernels.
    """

@typing.overload
def softmax_xent(
    logits: numpy.typing.NDArray[numpy.float32],
    targets: numpy.typing.NDArray[numpy.int32],
    threads: int = 0,
    device: str = "cpu",
    dtype: str = "",
) -> numpy.ndarray:
    """
    kernels/softmax_xent.h on arrays (N, V) and (N); see bytegolf.kernels.
    """

def vocab(family: str) -> dict[str, typing.Any]:
    """
    Dict of a family's vocabulary: family, size, byte_offset, and pad, bos, eos, unk (-1 where it has none).
    """

def write_artifact(
    path: str,
    tensors: collections.abc.Sequence[
        tuple[str, str, collections.abc.Sequence[int], typing.Annotated[numpy.typing.NDArray[typing.Any], numpy.uint8]]
    ],
    config: str,
    threads: int = 0,
) -> int:
    """
    Writes (name, dtype, shape, uint8 bytes) tuples as an artifact, atomically; returns its bytes.
    """

def zstd_version() -> str:
    """
    Version of the zstd library in the core.
    """

SHARD_HEADER_BYTES: int = 1024
SHARD_MAGIC: int = 20240520
SHARD_VERSION: int = 1
__version__: str
