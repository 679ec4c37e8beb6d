"""Runs the programs of a study side by side, each once, each in a process of its own with a log of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.metrics.machine import machine
from swwatch.paths import CODE, ROOT

TOLD_EVERY_S = 60.0  # how far the jobs are that run, where none ends meanwhile


@dataclass(frozen=True)
class Job:
    """A command line of swwatch: what follows `swwatch`, and the names of the jobs whose results it reads."""

    name: str
    argv: tuple[str, ...]
    after: tuple[str, ...] = ()


def run_all(jobs: Iterable[Job], notes: Path, *, at_once: int, devices: int = 0) -> int:
    """Run what is not done yet, in order where one needs another; prints a line for each that ends, and
    once a minute how far those are that run.

    Args:
        notes: folder for a log of each job, and for a note <name>.json that says that it is done: its seconds, and
            where and under which load it ran.
        at_once: how many run side by side.
        devices: number of CUDA devices; jobs take turns on them. 0: all see what this process sees.
    Returns:
        How many jobs were run.
    Raises:
        UserError: a job failed. Those that run then are waited for; nothing new is begun.
    """
    notes.mkdir(parents=True, exist_ok=True)
    waiting = {job.name: job for job in jobs if not (notes / f"{job.name}.json").exists()}
    total, free, running, failed, ended = len(waiting), list(range(at_once)), {}, [], 0
    with ThreadPoolExecutor(at_once) as pool:
        while running or (waiting and not failed):
            unfinished = waiting.keys() | {job.name for job, _ in running.values()}
            ready = [job for job in waiting.values() if unfinished.isdisjoint(job.after)]
            for job in ready[: 0 if failed else len(free)]:
                slot = free.pop(0)
                device = slot % devices if devices else None
                running[pool.submit(_run, waiting.pop(job.name), notes, at_once, device)] = (job, slot)
            done = wait(running, timeout=TOLD_EVERY_S, return_when=FIRST_COMPLETED).done
            for job, _ in [] if done else running.values():
                print(f"  {job.name}: {_tail(job, notes, 1)}", flush=True)
            for future in done:
                job, slot = running.pop(future)
                free.append(slot)
                ended += 1
                code, seconds = future.result()
                print(f"  [{ended}/{total}] {job.name}: {seconds:.0f} s{', FAILED' if code else ''}", flush=True)
                if code:
                    failed.append(f"{job.name} failed (exit code {code}); its log ends:\n{_tail(job, notes)}")
    if failed:
        raise UserError("\n".join([*failed, f"The logs are in {notes}. Mend the cause and give the command again."]))
    return ended


def _run(job: Job, notes: Path, at_once: int, device: int | None) -> tuple[int, float]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QWEN2_5_VL_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CODE), environment.get("PYTHONPATH")]))
    # one thread a process: with these small steps a second one gains little alone and loses much in company
    environment.setdefault("OMP_NUM_THREADS", "1")
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(device)
    begin, start = machine(), time.monotonic()
    with (notes / f"{job.name}.log").open("a") as log:
        # ends with this process, however that is killed: the next study would find what it writes locked
        command = [sys.executable, "-m", "swwatch.launch.worker", str(os.getpid()), "swwatch.cli", *job.argv]
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT).returncode
    seconds = time.monotonic() - start
    if code == 0:
        note = {"seconds": round(seconds, 1), "at_once": at_once, "argv": job.argv, "begin": begin, "end": machine()}
        write_atomic(notes / f"{job.name}.json", [json.dumps(note, indent=2) + "\n"])
    return code, seconds


def _tail(job: Job, notes: Path, lines: int = 8) -> str:
    return "\n".join((notes / f"{job.name}.log").read_text(errors="replace").splitlines()[-lines:])
