"""Which of several processes this one is: what torchrun, Slurm, mpirun and `bytegolf launch` say in the environment; and
`bytegolf launch` itself, which starts one process a GPU on this host and ends them together."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bytegolf.console import UserError

# What torchrun, MPI and Slurm tell a process about its rank. A run that we start is not a rank of the run we are in.
RANK_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    *("OMPI_COMM_WORLD_NODE_RANK", "PMI_RANK", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE"),
    *("SLURM_TASKS_PER_NODE", "SLURM_JOB_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NODELIST", "SLURM_NODELIST"),
    *("SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST"),
    *("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_LAUNCH_NODE_IPADDR", "BYTEGOLF_RANKS_KEY", "PMIX_NAMESPACE"),
)
DEFAULT_PORT = 29500  # where torchrun's workers meet, too
GRACE_S = 25.0  # between the first rank that fails and the killing of those still there


@dataclass(frozen=True)
class Ranks:
    """The place of this process among all. address, port: where rank 0 is found; port_is_taken: the launcher itself listens there.
    key: known to the processes of this run only, as far as their launcher has a secret or name for it."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    port: int
    key: str
    port_is_taken: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.world and 0 <= self.local_rank < max(self.local_world, 1) <= self.world):
            raise UserError(
                f"{self.source}: rank {self.rank} of {self.world}, local rank {self.local_rank} of {self.local_world}"
            )


def ranks_here(environment: Mapping[str, str] | None = None) -> Ranks | None:
    """What the environment says; None for a process that is alone. UserError names a variable that is missing or no number."""
    env = os.environ if environment is None else environment
    for names, read in (
        (("RANK", "WORLD_SIZE"), _torchrun),
        (("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), _slurm),
        (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), _open_mpi),
        (("PMI_RANK", "PMI_SIZE"), _mpich),
    ):
        if all(env.get(name) for name in names):
            return read(env) if _number(env, names[1]) > 1 else None
    return None


def _torchrun(env: Mapping[str, str]) -> Ranks:
    world = _number(env, "WORLD_SIZE")
    rank = _number(env, "RANK")
    own = env.get("BYTEGOLF_RANKS_KEY", "")
    if not env.get("MASTER_ADDR"):
        raise UserError("RANK and WORLD_SIZE are set, but MASTER_ADDR, where rank 0 is found, is not")
    return Ranks(
        rank,
        world,
        _number(env, "LOCAL_RANK", rank),
        _number(env, "LOCAL_WORLD_SIZE", world),
        env["MASTER_ADDR"],
        _number(env, "MASTER_PORT", DEFAULT_PORT),
        own or f"torchrun {env.get('TORCHELASTIC_RUN_ID', '')} {env['MASTER_ADDR']} {env.get('MASTER_PORT', '')}",
        port_is_taken=not own and "TORCHELASTIC_RUN_ID" in env,
        source="bytegolf launch" if own else "RANK, WORLD_SIZE",
    )


def _slurm(env: Mapping[str, str]) -> Ranks:
    world = _number(env, "SLURM_STEP_NUM_TASKS")
    job = f"{env.get('SLURM_JOB_ID', '')}.{env.get('SLURM_STEP_ID', '')}"
    alone = env.get("SLURM_STEP_NUM_NODES", "1") == "1"
    first = "127.0.0.1" if alone else first_host(env.get("SLURM_STEP_NODELIST", ""))
    per_node = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return Ranks(
        _number(env, "SLURM_PROCID"),
        world,
        _number(env, "SLURM_LOCALID", 0),
        world if alone else max(int(per_node[0]) if per_node else 1, _number(env, "SLURM_LOCALID", 0) + 1),
        env.get("MASTER_ADDR") or first,
        _number(env, "MASTER_PORT", _port_of(job)),
        f"slurm {job}",
        source="SLURM_PROCID, SLURM_STEP_NUM_TASKS",
    )


def _open_mpi(env: Mapping[str, str]) -> Ranks:
    job = env.get("PMIX_NAMESPACE", "")
    return _mpi(env, "OMPI_COMM_WORLD_", "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", job)


def _mpich(env: Mapping[str, str]) -> Ranks:
    return _mpi(env, "", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "")


def _mpi(env: Mapping[str, str], prefix: str, rank: str, size: str, local: str, local_size: str, job: str) -> Ranks:
    world = _number(env, prefix + size)
    on_host = _number(env, prefix + local_size, world)
    address = env.get("MASTER_ADDR") or ("127.0.0.1" if on_host == world else "")
    if not address:
        raise UserError(
            "these ranks are on several hosts: set MASTER_ADDR to that of rank 0 (mpirun -x MASTER_ADDR=...)"
        )
    return Ranks(
        _number(env, prefix + rank),
        world,
        _number(env, prefix + local, 0),
        on_host,
        address,
        _number(env, "MASTER_PORT", _port_of(job) if job else DEFAULT_PORT),
        f"mpi {job}",
        source=f"{prefix}{rank}, {prefix}{size}",
    )


def _number(env: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = env.get(name, "")
    if not text and otherwise is not None:
        return otherwise
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"environment variable {name} = {text!r} is not a number")
    return int(text)


def _port_of(job: str) -> int:
    """A port that depends on the job, so that jobs on one host do not meet."""
    return 20000 + int.from_bytes(hashlib.sha256(job.encode()).digest()[:4], "big") % 20000


def first_host(nodes: str) -> str:
    """The first of Slurm's short form of host names: "gpu[03-05,9],cpu1" -> "gpu03"."""
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise UserError(f"SLURM_STEP_NODELIST = {nodes!r} names no host; set MASTER_ADDR")
    return "".join(part for part in match.groups() if part)


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on now; address "" means all of this host's."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def launch_training(
    config: str | None, overrides: Sequence[str], gpus: int | None, ranks: int | None, run: Path | None, resume: bool
) -> int:
    """`bytegolf launch`: returns its status. UserError for GPUs that are not there."""
    from bytegolf import _bytegolf, device

    if gpus is not None and ranks is not None:
        raise UserError("--gpus and --ranks are two ways to say how many processes: name one")
    count = ranks
    if count is None:
        unusable = device.why_no_gpu()
        if unusable:
            raise UserError(f"no GPU can be used here: {unusable} (--ranks N trains in N processes on the CPU)")
        visible = len(_bytegolf.gpu_info()["gpus"])
        count = visible if gpus is None else gpus
        if not 1 <= count <= visible:
            raise UserError(f"--gpus {count}: {visible} can be seen here")
    elif count < 1:
        raise UserError(f"--ranks {count}: at least 1")
    words = ["train", *([config] if config is not None else []), *overrides]
    if not any(word.startswith("device=") for word in words):
        words.append(f"device={'cuda' if ranks is None else 'cpu'}")
    words += ["--run", str(run)] if run is not None else []
    words += ["--resume"] if resume else []
    return launch(words, count, cores=ranks is not None)


def launch(words: Sequence[str], count: int, cores: bool, module: str = "bytegolf") -> int:
    """Runs `python -m MODULE WORDS` as `count` ranks on this host and returns the status of the whole: 0 when all end with 0, else the
    first failure's. What rank 0 prints goes to the screen; of the others standard error only, each line with its rank. With
    `cores` the ranks share out this process's cores. Ctrl-C goes to all ranks; a second one ends them."""
    return _Launch([sys.executable, "-m", module, *words], count, cores).run()


class _Launch:
    def __init__(self, words: Sequence[str], count: int, cores: bool) -> None:
        self.words, self.count, self.cores = words, count, cores
        self.processes: list[subprocess.Popen[bytes]] = []
        self.signals: list[int] = []
        self.threads: list[threading.Thread] = []

    def run(self) -> int:
        key, port = secrets.token_hex(16), free_port()
        old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for rank in range(self.count):
                self._start(rank, key, port)
            return self._wait()
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
            for thread in self.threads:
                thread.join(timeout=2)
            for number, handler in old.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.signals.append(number)

    def _start(self, rank: int, key: str, port: int) -> None:
        taken = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.count, "LOCAL_WORLD_SIZE": self.count}
        own_text = {name: str(value) for name, value in own.items()}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "BYTEGOLF_RANKS_KEY": key}
        process = subprocess.Popen(
            self.words,
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=None if rank == 0 else subprocess.PIPE,
            env=taken | own_text | where,
            start_new_session=True,  # Ctrl-C reaches ranks through us only
            close_fds=False,  # a lock that is held through us is held through our ranks
        )
        self.processes.append(process)
        if self.cores:
            _give_cores(process.pid, rank, self.count)
        if process.stderr is not None:
            thread = threading.Thread(target=_prefix, args=(process.stderr, rank), daemon=True)
            thread.start()
            self.threads.append(thread)

    def _wait(self) -> int:
        first = 0  # status of the first rank that failed
        deadline = float("inf")
        sent = 0
        while any(process.poll() is None for process in self.processes):
            if len(self.signals) > sent:
                sent = len(self.signals)
                self._send(self.signals[-1])
                if sent > 1:
                    deadline = min(deadline, time.monotonic() + 5)
            for rank, process in enumerate(self.processes):
                status = process.poll()
                if status not in (None, 0) and not first:
                    first = _status(status)
                    deadline = min(deadline, time.monotonic() + GRACE_S)
                    if status < 0:
                        _say(f"rank {rank} was killed by {signal.Signals(-status).name}")
            if time.monotonic() > deadline:
                for rank, process in enumerate(self.processes):
                    if process.poll() is None:
                        _say(f"rank {rank} is still there: killed")
                        process.kill()
            time.sleep(0.05)
        statuses = [_status(process.wait()) for process in self.processes]
        return first or next((status for status in statuses if status), 0)

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)


def _status(status: int) -> int:
    return 128 - status if status < 0 else status


def _say(text: str) -> None:
    sys.stderr.write(f"bytegolf launch: {text}\n")
    sys.stderr.flush()


def _prefix(stream: IO[bytes], rank: int) -> None:
    for line in stream:
        sys.stderr.write(f"[rank {rank}] {line.decode(errors='replace').rstrip()}\n")
        sys.stderr.flush()


def _give_cores(pid: int, rank: int, count: int) -> None:
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= count:
        os.sched_setaffinity(pid, cores[len(cores) * rank // count : len(cores) * (rank + 1) // count])
