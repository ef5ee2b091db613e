"""Which of several processes this one is: what torchrun, Slurm, mpirun and `bytegolf launch` say in the environment."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from bytegolf.errors import UserError

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
        if not 1 <= self.port <= 65535:
            raise UserError(f"{self.source}: MASTER_PORT = {self.port}, but ports are 1 to 65535")


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
    names = _Names(*(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")))
    return _mpi(env, names, env.get("PMIX_NAMESPACE", ""))


def _mpich(env: Mapping[str, str]) -> Ranks:
    return _mpi(env, _Names("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"), "")


@dataclass(frozen=True)
class _Names:
    """Variables of an MPI that hold a rank, the number of ranks, and both of this host."""

    rank: str
    size: str
    local: str
    local_size: str


def _mpi(env: Mapping[str, str], names: _Names, job: str) -> Ranks:
    world = _number(env, names.size)
    on_host = _number(env, names.local_size, world)
    address = env.get("MASTER_ADDR") or ("127.0.0.1" if on_host == world else "")
    if not address:
        raise UserError(
            "these ranks are on several hosts: set MASTER_ADDR to that of rank 0 (mpirun -x MASTER_ADDR=...)"
        )
    return Ranks(
        _number(env, names.rank),
        world,
        _number(env, names.local, 0),
        on_host,
        address,
        _number(env, "MASTER_PORT", _port_of(job) if job else DEFAULT_PORT),
        f"mpi {job}",
        source=f"{names.rank}, {names.size}",
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
