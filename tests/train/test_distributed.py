"""Two processes train as one would: same clips, losses and weights, in every engine; they stop and fail together."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swwatch.launch.signals import PREEMPTED
from swwatch.model.loading import load
from swwatch.train.checkpoints import COMPLETE, newest_complete
from swwatch.train.command import main
from swwatch.train.distributed import free_port
from swwatch.train.settings import ROOT
from tests.helpers.forked import Done, Forked
from tests.helpers.two_processes import main as train

SCRIPT = Path(__file__).parents[1] / "helpers" / "two_processes.py"
ENGINES = {
    "ddp": ("DistributedDataParallel", None),
    "zero2": ("DeepSpeedEngine", 2),
    "zero3": ("DeepSpeedEngine", 3),
    "fsdp2": ("FSDPModule", None),
}


def environment() -> dict[str, str]:
    """Of a subprocess: nothing of a surrounding torchrun, one thread."""
    names = (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "NNODES",
        "NODE_RANK",
    )
    kept = {key: value for key, value in os.environ.items() if key not in names}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(folder: Path, arguments: list[str], *act) -> subprocess.CompletedProcess:
    """Two processes as users start them: where one fails, torchrun ends the other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT]
    command += [folder / "notes", *act, "--", *arguments]
    return subprocess.run(list(map(str, command)), env=environment(), capture_output=True, text=True, timeout=600)


def train_by_two(folder: Path, arguments: list[str]) -> Done:
    """Two processes that are to come to their end, sooner than torchrun's."""
    both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [environment() | both | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    processes = [Forked(train, folder / "notes", [], arguments, env=env) for env in ranks]
    ends = [process.end() for process in processes]
    out, err = ("".join(getattr(end, name) for end in ends) for name in ("stdout", "stderr"))
    return Done(max(abs(end.returncode) for end in ends), out, err)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def numbers(log: list[dict]) -> list[float]:
    return [line[key] for line in log for key in ("loss", "grad_norm", "learning_rate", "samples", "tokens", "epoch")]


def notes_of(folder: Path) -> list[dict]:
    return [json.loads((folder / "notes" / f"{rank}.json").read_text()) for rank in (0, 1)]


CHANGES = {"max_steps": 4, "save_steps": 2, "save_total_limit": 2, "batch_size": 1, "accumulation": 6, "warmup": 1}


@pytest.fixture
def alone(flags, made_once, tiny_checkpoint):
    """The run of one process: 4 steps of 6 clips, so steps 2 and 3 reach into the next epoch of 8."""

    def make(out: Path) -> None:
        assert main(flags(**CHANGES, output_dir=out)) == 0

    return made_once(f"by-one-{tiny_checkpoint.name}", make)


@pytest.fixture
def by_two(flags, made_once, tiny_checkpoint):
    """by_two(engine) -> the finished run of two processes; made once."""

    def build(engine: str) -> Path:
        def make(out: Path) -> None:
            done = train_by_two(out, flags(**CHANGES, output_dir=out, parallel=engine))
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("the model is in") == 1, "only the main process speaks"

        return made_once(f"by-two-{engine}-{tiny_checkpoint.name}", make)

    return build


@pytest.fixture
def copy_by_two(by_two, tmp_path):
    """As by_two, to be changed."""
    return lambda engine: shutil.copytree(by_two(engine), tmp_path / engine)


def assert_same_weights(ours: Path, theirs: Path):
    ours, theirs = (load_file(path / "model.safetensors") for path in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name in ours:
        # Adam moves each weight by about the learning rate 0.01 however small its gradient is, and so enlarges the
        # rounding of sums in another order; a gradient scaled or summed wrongly would show in the first digit
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=0, atol=5e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_give_the_run_of_one_in_the_engine_that_was_asked_for(engine, alone, by_two):
    out = by_two(engine)
    assert numbers(log_of(out)) == pytest.approx(numbers(log_of(alone)), rel=1e-4)
    assert [line["loss"] for line in log_of(out)] == pytest.approx([line["loss"] for line in log_of(alone)], abs=1e-4)
    # the engine, as each process saw it
    wrapper, stage = ENGINES[engine]
    for seen in notes_of(out):
        assert wrapper in seen["wrapper"] and seen["stage"] == stage
    whole = sum(p.numel() for p in load_file(alone / "model.safetensors").values())
    sharded = engine in ("zero3", "fsdp2")
    assert all((seen["local_parameters"] < 0.7 * whole) == sharded for seen in notes_of(out))
    # one loadable folder, now and at each checkpoint
    for name in (".", "checkpoint-2", "checkpoint-4"):
        assert load(out / name, device="cpu").settings.variant == "group"
        assert_same_weights(out / name, alone / name)


def test_the_clips_of_a_step_are_those_of_one_process(alone, by_two):
    from swwatch.data.dataset import EpochOrder
    from swwatch.train.trainer import RunOrder

    order = [list(key) for key in RunOrder(EpochOrder(8, seed=42), 24)]
    assert sorted(order[:8]) == [[0, i] for i in range(8)] and {epoch for epoch, _ in order[8:16]} == {1}
    keys = [seen["keys"] for seen in notes_of(by_two("ddp"))]
    for step in range(4):
        both = [key for mine in keys for key in mine[3 * step : 3 * step + 3]]
        assert sorted(both) == sorted(order[6 * step : 6 * step + 6])


@pytest.mark.parametrize(
    "engine",
    [pytest.param(engine, marks=pytest.mark.slow) for engine in ("ddp", "zero3")]
    + [pytest.param(engine, marks=pytest.mark.long) for engine in ("zero2", "fsdp2")],
)
def test_a_signal_to_one_process_saves_and_stops_all_and_the_next_start_continues_to_the_bit(
    engine, flags, by_two, tmp_path
):
    whole, out = by_two(engine), tmp_path / "stopped"
    arguments = flags(**CHANGES, output_dir=out, parallel=engine)
    done = torchrun(out, arguments, "term", 1, 3)
    assert f"exitcode  : {PREEMPTED}" in done.stderr, done.stderr  # torchrun's own exit code is 1
    assert done.stdout.count("stopped by a signal after step 3 of 4: the same command continues") == 1
    assert newest_complete(out).name == "checkpoint-3" and not (out / "finished.json").exists()
    done = train_by_two(out, arguments)
    assert done.returncode == 0, done.stderr
    assert log_of(out) == log_of(whole)
    ours, theirs = (load_file(path / "model.safetensors") for path in (out, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero3", "fsdp2"])
def test_a_run_cut_short_while_the_model_was_written_needs_no_engine_to_end(engine, flags, copy_by_two):
    out = copy_by_two(engine)
    weights = load_file(out / "model.safetensors")
    for name in ("finished.json", "model.safetensors"):
        (out / name).unlink()
    done = train_by_two(out, flags(**CHANGES, output_dir=out, parallel=engine))
    assert done.returncode == 0 and "from step 4" in done.stdout, done.stderr
    assert all(tensor.equal(weights[name]) for name, tensor in load_file(out / "model.safetensors").items())


@pytest.mark.slow
def test_a_sharded_run_is_not_continued_by_another_number_of_processes_and_a_ddp_run_is(flags, copy_by_two):
    out = copy_by_two("zero2")
    (out / "finished.json").unlink()
    (out / "checkpoint-4" / COMPLETE).unlink()
    done = torchrun(out, flags(**CHANGES, output_dir=out, parallel="ddp"))
    assert "parallel was 'zero2', now None; processes was 2, now None" in done.stderr
    out = copy_by_two("ddp")
    before = log_of(out)
    (out / "finished.json").unlink()
    (out / "checkpoint-4" / COMPLETE).unlink()
    assert main(flags(**CHANGES, output_dir=out)) == 0
    assert numbers(log_of(out)) == pytest.approx(numbers(before), rel=1e-4)


def test_a_mistake_that_one_process_meets_is_told_once_and_ends_all(flags, tmp_path, clips):
    from tests.helpers.small_clips import make_clips

    data = make_clips(tmp_path / "data", 8, bad=(3,))
    done = torchrun(tmp_path, flags(train_data=data, accumulation=2))
    assert done.returncode != 0 and done.stderr.count("error: 1 of 8 records are unusable") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr and "trainer.py" not in done.stderr, "an error, not a traceback"
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_crash_of_one_process_ends_all(flags, tmp_path):
    done = torchrun(tmp_path, flags(parallel="fsdp2"), "crash", 1, 2)  # a hang would meet the time limit
    assert done.returncode != 0 and "this process crashes" in done.stderr
    assert not (tmp_path / "out" / "finished.json").exists()
