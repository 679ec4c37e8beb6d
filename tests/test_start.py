"""How programs start: no help and no mistake in a flag waits for torch, and every help is short work."""

import json
import subprocess
import sys

import pytest

from swwatch import cli
from swwatch.bench import command as bench
from swwatch.evaluate.commentary import command as commentary
from swwatch.plan import command as plan
from swwatch.study import command as study
from swwatch.toy import command as toy

# every command, and the sub-commands that have flags of their own
SUB_COMMANDS = {
    "prepare": ("--task funqa",),
    "toy": toy.KINDS,
    "commentary": commentary.KINDS,
    "bench": bench.KINDS,
    "plan": plan.KINDS,
    "study": study.OTHERS,
}
PROGRAMS = [*cli.COMMANDS, *(f"{name} {sub}" for name, subs in SUB_COMMANDS.items() for sub in subs)]
HEAVY = ("torch", "transformers")
SLOW = (*HEAVY, "av", "httpx", "numpy", "PIL", "pydantic")  # a third of a help's time and more
CPU_S = 0.3
MISTAKES = [
    "stream --model x/y --video a.mp4 --variant gruop",
    "stream --model x/y --video a.mp4 --engine warp",
    "stream --model x/y --video a.mp4 --device gpu",
    "stream --model x/y --video a.mp4 --max-new-tokens 0",
    "stream --model x/y --video a.mp4 --max-framse 3",
    "stream --model /nowhere --video a.mp4",
    "stream --model x/y --video /nowhere.mp4",
    "turns --model x/y --video a.mp4 --system livecc --eviction append --flush-seconds 9",
    "stream --model x/y --video a.mp4 --keep livevlm --attention flash_attention_2",
    "turns --model x/y --video /nowhere.mp4",
    "serve --model /nowhere --port 0",
    "serve --model x/y --port 99999",
    "serve --model x/y --port 0 --files /nowhere",
    "serve --model x/y --port 0 --token short",
    "watch camera:0 --engine warp",
    "watch camera:0 --see most",
    "watch camera:0 --model /nowhere",
    "watch /nowhere.mp4",
    "inspect --grid 2",
    "inspect --variant all --seconds 9",
    "inspect --see dtd:0.5 --video /nowhere.mp4 --model x/y",
    "merge /nowhere --out x",
    "chunk /nowhere out.jsonl",
    "toy data",
    "toy model --family llama x",
    "prepare --sample 0",
    "bench stream --k 3,0",
    "bench train --model /nowhere",
    "bench endless --modes full,fast",
    "bench live --begin 9 --most 2",
    "study --jobs 0",
    "eval --model-path /nowhere",
    "eval --variant gruop",
    "eval --max-count 0",
    "eval --data-dir /nowhere.jsonl --model-path x/y",
    "eval --score-only --output-file /nowhere.json",
    "disturb /nowhere",
    "quiz mvbench",
    "commentary",
    "commentary generate --task other",
    "commentary generate --task inf-streams --model x/y --data /nowhere.jsonl --output o.jsonl",
    "commentary judge /nowhere.jsonl --task livesports-cc --other b.jsonl --data /nowhere.jsonl",
    "compare /nowhere.json /nothing.json",
    "judge /nowhere.json",
    "report /nowhere.json --out x",
    "quiz nobench --data . --model x/y",
    "quiz livesports --data /nowhere.json --model x/y",
    "plan train --model-path qwen2.5-vl-4b",
    "plan train --model-path qwen2.5-vl-3b --parallel zero4",
    "plan live --model qwen2.5-vl-3b --share 2",
    "plan live --against /nowhere.json",
    "plan replicas --device H1000",
    "plan replicas --measured /nowhere.json",
    "flow",
]
# runs a program and tells what it printed, its exit code, the modules that it imported and its own CPU seconds
PROBE = """
import contextlib, io, json, resource, sys
from swwatch import cli
out, err = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
        code = cli.main(sys.argv[1:])
    except SystemExit as stop:
        code = stop.code
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, out.getvalue(), err.getvalue(), list(sys.modules), used.ru_utime + used.ru_stime]))
"""


def start(command: str) -> tuple[int, str, str, list[str], float]:
    """Exit code, standard output, standard error, slow modules and CPU seconds of a program."""
    done = subprocess.run([sys.executable, "-c", PROBE, *command.split()], capture_output=True, text=True, check=True)
    code, out, err, modules, cpu_s = json.loads(done.stdout)
    return code, out, err, [name for name in SLOW if name in modules], cpu_s


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_needs_no_torch_and_little_time(program):
    code, out, err, slow, cpu_s = start(f"{program} --help")
    assert code == 0 and "usage:" in out and not err
    assert slow == []
    assert cpu_s < 3 * CPU_S, "three times what a quiet machine takes"


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_told_before_torch_is_imported(command):
    code, out, err, slow, _ = start(command)
    assert code == 2 and "error: " in err and "Traceback" not in err
    assert not {*HEAVY} & {*slow}
