"""Which rank a process is, and `bytegolf launch`: several processes train as one, and end together."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bytegolf import checkpoint
from bytegolf.errors import UserError
from bytegolf.log import read_log
from bytegolf.ranks import launch
from bytegolf.ranks.environment import RANK_VARIABLES, Ranks, first_host, free_port, ranks_here

TINY = """
num_layers = 2
model_dim = 32
num_heads = 2
num_kv_heads = 1
rope_dims = 8
xsa_last_n = 1
bigram_vocab_size = 64
bigram_dim = 8
jepa_latent_dim = 8
jepa_proj_hidden = 8
jepa_phase1_frac = 0.0
seq_len = 64
eval_stride = 32
train_batch_ids = 512
micro_batch_ids = 128
iterations = 12
warmdown_iters = 4
ema_decay = 0.9
log_every = 1
rank_check_every = 3
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A small config file with its shards beside it."""
    folder = tmp_path_factory.mktemp("ranks")
    random = np.random.default_rng(5)
    words = [bytes(random.integers(97, 105, 6).astype(np.uint8)) for _ in range(20)]
    for name, count in (("x_train_000000.bin", 4000), ("x_val_000000.bin", 300)):
        text = b" ".join(words[i] for i in random.integers(0, 20, count))
        ids = np.concatenate([[1], np.frombuffer(text, np.uint8).astype(np.uint16) + 4]).astype(np.uint16)
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(ids)
        (folder / name).write_bytes(header.tobytes() + ids.astype("<u2").tobytes())
    file = folder / "tiny.toml"
    file.write_text(TINY + f'train_data = "{folder}"\nval_data = "{folder}"\n')
    return file


def bytegolf(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "bytegolf", *map(str, words)], capture_output=True, text=True, timeout=600, **more
    )


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "bytegolf", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def children(pid):
    """Process ids of the ranks of a launch, by rank."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            parent = int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{entry}/status").read_text())[1])
            if parent == pid:
                environment = Path(f"/proc/{entry}/environ").read_text().split("\0")
                rank = dict(e.split("=", 1) for e in environment if "=" in e).get("RANK")
                if rank is not None:
                    found[int(rank)] = int(entry)
        except (OSError, TypeError):
            continue
    return found


def wait_for_step(folder, step, process):
    for _ in range(3000):
        log = folder / "log.jsonl"
        if (
            log.exists()
            and log.stat().st_size
            and any(line.get("step", 0) >= step for line in read_log(log) if line["kind"] == "step")
        ):
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.1)
    raise AssertionError(f"step {step} did not come")


def losses(folder):
    return {line["step"]: line["ce"] for line in read_log(folder / "log.jsonl") if line["kind"] == "step"}


def test_torchruns_variables_are_read():
    env = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    env |= {"MASTER_ADDR": "node7", "MASTER_PORT": "1234", "TORCHELASTIC_RUN_ID": "run"}
    got = ranks_here(env)
    assert (got.rank, got.world, got.local_rank, got.local_world) == (3, 8, 1, 2)
    assert (got.address, got.port, got.port_is_taken) == ("node7", 1234, True)
    assert "run" in got.key


def test_slurms_variables_are_read():
    env = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "2"}
    env |= {"SLURM_STEP_NODELIST": "gpu[003-004]", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
    env |= {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    got = ranks_here(env)
    assert (got.rank, got.world, got.local_rank, got.local_world) == (5, 8, 1, 4)
    assert got.address == "gpu003" and 20000 <= got.port < 40000
    assert ranks_here(env | {"SLURM_JOB_ID": "78"}).key != got.key
    assert ranks_here(env | {"MASTER_ADDR": "other", "MASTER_PORT": "5"}).address == "other"


def test_a_slurm_script_that_is_no_step_is_alone():
    assert ranks_here({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) is None


def test_mpiruns_variables_are_read():
    prefix = "OMPI_COMM_WORLD_"
    env = {prefix + "RANK": "1", prefix + "SIZE": "2", prefix + "LOCAL_RANK": "1", prefix + "LOCAL_SIZE": "2"}
    got = ranks_here(env | {"PMIX_NAMESPACE": "job.1"})
    assert (got.rank, got.world, got.local_rank, got.address) == (1, 2, 1, "127.0.0.1")
    assert ranks_here({"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "3"}).world == 3
    with pytest.raises(UserError, match="MASTER_ADDR"):
        ranks_here(env | {prefix + "SIZE": "4"})


def test_one_process_is_alone_and_nonsense_is_named():
    assert ranks_here({}) is None
    assert ranks_here({"RANK": "0", "WORLD_SIZE": "1"}) is None
    with pytest.raises(UserError, match="WORLD_SIZE = 'two'"):
        ranks_here({"RANK": "0", "WORLD_SIZE": "two"})
    with pytest.raises(UserError, match="MASTER_ADDR"):
        ranks_here({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="rank 2 of 2"):
        ranks_here({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"})


# What `scontrol show hostnames` prints first for each.
@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu7", "gpu7"), ("gpu[03-05,9],cpu1", "gpu03"), ("a1,b2", "a1"), ("rack2-n[7]-ib", "rack2-n7-ib")],
)
def test_slurms_short_form_gives_its_first_host(nodes, first):
    assert first_host(nodes) == first


def test_every_variable_that_makes_a_rank_is_listed():
    """Else a sweep would hand it on to runs of its own."""
    text = Path(launch.__file__).read_text()
    named = set(re.findall(r'"((?:OMPI|PMI|PMIX|SLURM_STEP|SLURM_PROC|SLURM_LOCAL|MASTER|TORCHELASTIC)\w+)"', text))
    named -= {"OMPI_COMM_WORLD_"}
    assert named <= set(RANK_VARIABLES)


def test_ranks_train_as_one_process_does(config, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    done = bytegolf("train", config, "device=cpu", "--run", alone)
    assert done.returncode == 0, done.stderr
    done = bytegolf("launch", config, "--ranks", 2, "--run", together)
    assert done.returncode == 0, done.stderr
    assert "held-out, artifact" in done.stdout
    one, two = losses(alone), losses(together)
    assert one.keys() == two.keys() and len(one) == 12
    assert max(abs(one[step] - two[step]) for step in one) < 1e-4  # float32 sums in another order
    first, last = read_log(together / "log.jsonl")[0], read_log(together / "log.jsonl")[-1]
    assert first["world_size"] == 2 and last["reason"] == "done"
    end = read_log(alone / "log.jsonl")[-1]
    assert last["train_bytes"] == end["train_bytes"]
    assert last["sliding"]["targets"] == end["sliding"]["targets"]
    assert abs(last["sliding"]["bpb"] - end["sliding"]["bpb"]) < 1e-3
    assert last["whole"]["by_position"].keys() == end["whole"]["by_position"].keys()


def test_the_score_of_shared_windows_is_that_of_the_artifact_alone(config, tmp_path):
    run = tmp_path / "run"
    assert bytegolf("launch", config, "--ranks", 3, "train_batch_ids=384", "--run", run).returncode == 0
    end = read_log(run / "log.jsonl")[-1]
    done = bytegolf("eval", run / "artifact.bg", config.parent, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bpb"] == pytest.approx(end["sliding"]["bpb"], rel=1e-12)


def test_ctrl_c_leaves_a_checkpoint_that_any_number_of_ranks_goes_on_from(config, tmp_path):
    run = tmp_path / "run"
    words = ["iterations=60", "rank_check_every=0"]
    process = start("launch", config, *words, "--ranks", 2, "--run", run)
    wait_for_step(run, 5, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "resume with: bytegolf train --resume" in err
    step = checkpoint.read_checkpoint(run / "checkpoints")[1]["progress"]["step"]
    assert 5 <= step < 60
    done = bytegolf("launch", "--ranks", 4, "--resume", "--run", run)
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    assert bytegolf("train", config, *words, "device=cpu", "--run", whole).returncode == 0
    one, two = losses(whole), losses(run)
    assert one.keys() == two.keys()
    assert max(abs(one[s] - two[s]) for s in one) < 2e-3


def test_a_rank_that_is_killed_is_named_and_all_leave(config, tmp_path):
    run = tmp_path / "run"
    process = start("launch", config, "iterations=100000", "--ranks", 3, "train_batch_ids=384", "--run", run)
    wait_for_step(run, 3, process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode not in (0, None), (out, err)
    assert "rank 1: its process ended without a word" in err
    assert "rank 1 was killed by SIGKILL" in err
    assert "rank 1" in read_log(run / "log.jsonl")[-1]["reason"]


def test_without_rank_zero_the_others_leave(config, tmp_path):
    run = tmp_path / "run"
    process = start("launch", config, "iterations=100000", "--ranks", 2, "--run", run)
    wait_for_step(run, 2, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode not in (0, None), (out, err)
    assert "[rank 1] bytegolf: rank 0: its process ended without a word" in err


def ranks_that(*ends):
    """A launch of one process for each of these lines of Python."""
    code = f"import os, signal, time; exec({list(ends)!r}[int(os.environ['RANK'])])"
    launched = launch._Launch([sys.executable, "-c", code], len(ends), cores=False)
    for rank in range(len(ends)):
        launched._start(rank, "key", 1)
    return launched


KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "ends", [("exit(1)", KILLED, "exit(1)"), ("exit(0)", KILLED), ("exit(1)", "time.sleep(1); " + KILLED)]
)
@pytest.mark.parametrize("late", [False, True])
def test_the_rank_that_was_killed_is_the_cause_whichever_end_is_seen_first(ends, late, capsys):
    launched = ranks_that(*ends)
    if late:  # the launcher itself was held up: all have left when it first looks
        for process in launched.processes:
            process.wait()
    assert launched._wait() == 128 + signal.SIGKILL
    assert capsys.readouterr().err == "bytegolf launch: rank 1 was killed by SIGKILL\n"


def test_a_signal_that_the_launcher_passed_on_is_nobodys_failure(capsys):
    launched = ranks_that("time.sleep(1e6)", "time.sleep(1e6)")
    launched._note(signal.SIGTERM, None)
    assert launched._wait() == 128 + signal.SIGTERM
    assert capsys.readouterr().err == ""


SPOIL = """
import sys
from bytegolf import trainer
step = trainer.Trainer.step
def spoilt(self):
    if self.group.rank == 1 and self.steps_done == 4:
        params = self.model.parameters()
        params["skip_weights"][:] = float("nan")
        self.model.load_parameters(params)
    return step(self)
trainer.Trainer.step = spoilt
from bytegolf.cli import main
main(sys.argv[1:])
"""


def scripted(script, config, run, *words):
    """Two ranks that run `script` in place of bytegolf, as torchrun would start them; their processes when all have ended."""
    env = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    env |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    line = [sys.executable, "-c", script, "train", str(config), "device=cpu", *words, "--run", str(run)]
    ranks = [subprocess.Popen(line, env=env | {"RANK": str(r)}, stderr=subprocess.PIPE, text=True) for r in range(2)]
    return [(process.communicate(timeout=600)[1], process.returncode) for process in ranks]


def test_a_loss_that_is_not_finite_ends_all_ranks(config, tmp_path):
    for said, status in scripted(SPOIL, config, tmp_path / "run"):
        assert status == 1
        assert "step 4 : rank 1: " in said
    assert "step 4 : rank 1: " in read_log(tmp_path / "run" / "log.jsonl")[-1]["reason"]


def test_mistakes_are_told_once_and_end_with_status_2(config, tmp_path):
    done = bytegolf("launch", config, "--ranks", 3, "--run", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert "train_batch_ids = 512 is not a multiple of micro_batch_ids = 128 times the number of ranks 3" in done.stderr
    done = bytegolf("launch", config, "--ranks", 2, "--gpus", 2)
    assert done.returncode == 2 and "name one" in done.stderr


# Nobody is judged before that step: how long ranks take to start is the machine's affair.
HANG = """
import sys, time
from bytegolf import trainer
from bytegolf.ranks import watch
behind = watch.behind
watch.behind = lambda pulses, s: behind(pulses, s) if any(p.what == "step 4" for p in pulses.values()) else None
step = trainer.Trainer.step
def slow(self):
    if self.group.rank == 1 and self.steps_done == 4:
        time.sleep(100)
    return step(self)
trainer.Trainer.step = slow
from bytegolf.cli import main
main(sys.argv[1:])
"""


def test_a_rank_that_hangs_is_named(config, tmp_path):
    ended = scripted(HANG, config, tmp_path / "run", "iterations=1000", "rank_timeout_s=8")
    for said, status in ended:
        assert status == 1
        assert "rank 1: makes no progress for" in said
        assert re.search(r"in: (step [34])\)", said)


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named_within_half_a_minute(config, tmp_path):
    run = tmp_path / "run"
    process = start("launch", config, "iterations=100000", "--ranks", 2, "--run", run)
    wait_for_step(run, 2, process)
    victim = children(process.pid)[1]
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert "rank 1: nothing is heard of it" in err, (out, err)
    assert process.returncode not in (0, None)
    assert time.monotonic() - began < 60  # rank 0 within 30 s; the launcher kills the stopped one after its grace


def test_ranks_without_a_launcher_meet_by_the_environment(config, tmp_path):
    """As torchrun starts them: MASTER_PORT itself is taken by its agent."""
    import socket

    run = tmp_path / "run"
    env = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    with socket.socket() as agent:
        agent.bind(("127.0.0.1", 0))
        agent.listen()
        env |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(agent.getsockname()[1])}
        env |= {"TORCHELASTIC_RUN_ID": "7", "LOCAL_WORLD_SIZE": "2"}
        words = [sys.executable, "-m", "bytegolf", "train", str(config), "device=cpu", "--run", str(run)]
        ranks = [
            subprocess.Popen(words, env=env | {"RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True)
            for r in range(2)
        ]
        said = [process.communicate(timeout=600)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert read_log(run / "log.jsonl")[-1]["reason"] == "done"


def test_ranks_refuse_impossible_places():
    with pytest.raises(UserError, match="rank 4 of 4"):
        Ranks(4, 4, 0, 4, "a", 1, "k", source="test")
