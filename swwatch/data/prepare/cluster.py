"""The parts of a split as tasks of a Ray cluster, whose nodes share the file system and have swwatch installed.

A task is a part, found again by its state as in any other run (`parts.py`): a worker or node that dies costs its parts
alone, which Ray gives to another, and a run that is begun anew asks for the rest only.
"""

from contextlib import ExitStack

import ray
from tqdm import tqdm

from swwatch.data.prepare.parts import PeVideoSplit, finished_parts, process_part, refuse_held
from swwatch.data.prepare.shared import load_counter
from swwatch.errors import UserError
from swwatch.paths import only_one

ATTEMPTS = 5  # at a part whose worker dies


def prepare_slices(jobs: list[PeVideoSplit], address: str, tokenizer: str) -> None:
    """Work off all parts that are not finished; outputs are not written.

    Args:
        address: as `ray.init` takes it (host:port, auto), or local for workers of this machine alone.
        tokenizer: hub id or folder, loaded once by each worker.
    Raises:
        UserError: there is no such cluster, a split is being prepared, or a part's worker died again and again.
    """
    try:
        ray.init(address, configure_logging=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at {address} that lets us in ({error}): start one with `ray start --head`, and where it "
            "asks for a token, set RAY_AUTH_MODE=token here too"
        ) from error
    try:
        with ExitStack() as stack:
            for job in jobs:
                stack.enter_context(only_one(job.states, str(job.output)))
                refuse_held(job, ".slice-*.lock")
            _run(jobs, tokenizer)
    finally:
        ray.shutdown()


def _run(jobs: list[PeVideoSplit], tokenizer: str) -> None:
    work = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_work)
    waiting = {}
    for job in jobs:
        done = {job.key(part) for part in finished_parts(job)}
        alone = PeVideoSplit(**vars(job) | {"parts": []})  # a task needs no list of all parts
        waiting |= {work.remote(alone, part, tokenizer): part for part in job.parts if job.key(part) not in done}
    with tqdm(total=sum(part.size for part in waiting.values()), unit="B", unit_scale=True, desc="prepare") as bar:
        while waiting:
            for task in ray.wait(list(waiting), num_returns=1)[0]:
                part = waiting.pop(task)
                try:
                    ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from error
                except ray.exceptions.RayError as error:
                    raise UserError(f"a worker of the cluster died {ATTEMPTS} times at a part: {error}") from error
                bar.update(part.size)


_counters: dict = {}  # of this worker


def _work(job: PeVideoSplit, part, tokenizer: str) -> None:
    if tokenizer not in _counters:
        _counters[tokenizer] = load_counter(tokenizer)
    process_part(job, part, _counters[tokenizer])
