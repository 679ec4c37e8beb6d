"""What is done to the programs. A trial returns what it counts, and raises where something does not hold."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from swwatch.client.protocol import HEADER, MAGIC
from swwatch.paths import CODE, make_folder
from tests.helpers.hostile_clients import COSTLY, GOOD, Wild, anything, memory_mb, story, wait_for_room
from tests.helpers.server_process import ServerProcess
from tests.helpers.small_clips import make_clips, write_video
from tests.helpers.tiny import make_tiny

MORE_MB = 150  # what hostile clients may leave behind in a server: allocators keep some of what was used once
LIMITS = ("--max-sessions", "24", "--grace-s", "0.3", "--max-frame-rate", "1000", "--max-tokens", "60")
LIMITS += ("--max-frame-bytes", "200000", "--max-pixels", "1000000")
SMALL = ("--batch-size", "2", "--accumulation", "2", "--max-steps", "6", "--save-steps", "2", "--log-to", "jsonl")


def swwatch(*arguments, **options) -> subprocess.Popen:
    own = {"PYTHONPATH": str(CODE), "OMP_NUM_THREADS": "1", "PATH": str(Path(sys.executable).parent)}  # without Java
    environment = os.environ | own
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    command = [sys.executable, "-m", "swwatch", *map(str, arguments)]
    return subprocess.Popen(command, start_new_session=True, **pipes | options)


def finished(*arguments) -> tuple[int, str, float]:
    """(exit code, what was printed, seconds)."""
    began = time.monotonic()
    process = swwatch(*arguments)
    text, _ = process.communicate(timeout=600)
    return process.returncode, text, time.monotonic() - began


class World:
    """A model, clips and a server that all trials share; made where they are asked for first."""

    def __init__(self, folder: Path):
        self.folder, self._servers = folder, []
        make_folder(folder)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *error) -> None:
        for server in self._servers:
            server.stop()

    @cached_property
    def model(self) -> Path:
        return make_tiny(self.folder / "model")

    @cached_property
    def clips(self) -> Path:
        if not (self.folder / "clips" / "train.jsonl").exists():
            make_clips(self.folder / "clips", 8)
        return self.folder / "clips" / "train.jsonl"

    @cached_property
    def shards(self) -> Path:
        """Toy clips in shards, as PE-Video has them."""
        code, text, _ = finished("toy", "data", self.folder / "pe", "--clips", 24, "--test-clips", 6, "--form", "tar")
        assert code == 0, text
        return self.folder / "pe"

    @cached_property
    def server(self) -> ServerProcess:
        server = ServerProcess(self.new(), "--model", str(self.model), "--variant", "group", *LIMITS)
        self._servers.append(server)
        return server.wait()

    @cached_property
    def alone(self) -> list[tuple]:
        """What a session says with nobody beside it."""
        return story(self.server)

    def new(self, name: str = "trial") -> Path:
        """An empty folder."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir()
        return self.folder / name


# ---- kills ----------------------------------------------------------------------------------------------------------


def killed(world: World, rng: random.Random, name: str, program: Callable[[Path], list], results: Callable) -> dict:
    """Kill a program with all its children three times at any moment, then let it end: as if nothing had been."""
    whole = world.folder / f"whole-{name}"
    if not (whole / "took_s").exists():
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        code, text, took_s = finished(*program(whole))
        assert code == 0, text
        (whole / "took_s").write_text(str(took_s))
    took_s, folder, kills = float((whole / "took_s").read_text()), world.new(), 0
    for _ in range(3):
        process = swwatch(*program(folder), stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.2, 1.0) * took_s)
        if process.poll() is None:
            kills += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    code, text, _ = finished(*program(folder))
    assert code == 0 and "Traceback" not in text, text
    ours, theirs = results(folder), results(whole)
    assert any(theirs) and ours == theirs, "not what an undisturbed run wrote"
    return {"kills": kills}


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    files = sorted(path for name in names for path in folder.rglob(name))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def kill_prepare(world: World, rng: random.Random) -> dict:
    def program(folder: Path) -> list:
        if not (folder / "pe").exists():
            shutil.copytree(world.shards, folder / "pe")
        return ["prepare", "--dataset-root", folder / "pe", "--tokenizer-model-id", world.model]

    return killed(world, rng, "prepare", program, lambda folder: contents(folder, "*.mp4", "*_rejects.jsonl"))


def kill_train(world: World, rng: random.Random) -> dict:
    def program(folder: Path) -> list:
        data = ["--model-path", world.model, "--train-data", world.clips, "--output-dir", folder / "out"]
        return ["train", "--variant", "group", *data, *SMALL, "--precision", "float32"]

    return killed(
        world, rng, "train", program, lambda folder: contents(folder / "out", "log.jsonl", "model.safetensors")
    )


def kill_eval(world: World, rng: random.Random) -> dict:
    def program(folder: Path) -> list:
        where = ["--data-dir", world.clips, "--output-dir", folder / "out", "--device", "cpu"]
        return ["eval", "--variant", "group", "--model-path", world.model, *where, "--max-new-tokens", 200]

    def results(folder: Path) -> tuple:
        """Captions, and the tokens of the traces without their times, which no two runs share."""
        traces = contents(folder, "*_trace.jsonl").values()
        rows = [json.loads(line) for text in traces for line in text.splitlines()]
        told = [(row["video_id"], [(one["step"], one["token_id"]) for one in row["tokens"]]) for row in rows]
        return told, contents(folder, "*_infer.json")

    return killed(world, rng, "eval", program, results)


def kill_recordings(world: World, rng: random.Random) -> dict:
    """A server is killed amid recorded sessions: all that a client was told is in the recording."""
    folder = world.new()
    flags = ("--model", str(world.model), "--variant", "group", *LIMITS, "--record-folder", str(folder / "kept"))
    server = ServerProcess(folder, *flags).wait()
    try:
        told = []
        with contextlib.suppress(AssertionError), Wild(server) as client:
            client.send({"type": "open", "version": 1, "record": True, "schedule": "wait-k:4"})
            client.until("opened")
            for number in range(rng.randint(4, 40)):
                client.send(HEADER.pack(MAGIC, number, number / 2) + GOOD[number % len(GOOD)])
            client.until("watched")
            time.sleep(rng.uniform(0, 0.5))
            os.kill(server.process.pid, signal.SIGKILL)
            told = client.got
            while client.next() is not None:
                pass
        numbered = [message.n for message in told if getattr(message, "n", None) is not None]
        (file,) = (folder / "kept").glob("*.jsonl")
        lines = file.read_text().split("\n")[:-1]
        kept = [json.loads(line).get("n") for line in lines]
        assert numbered and set(numbered) <= set(kept), f"told {numbered}, kept {kept}"
    finally:
        server.process.kill()
        server.process.wait()
    code = ServerProcess(folder, *flags).stop()
    assert code == 0, "the folder is free again"
    return {"kills": 1, "messages kept": len(kept)}


def signals(world: World, rng: random.Random) -> dict:
    """SIGTERM while a server loads, or serves a client: an orderly end within ten seconds, and nothing left behind."""
    folder, loads = world.new(), rng.random() < 0.5
    (folder / "tmp").mkdir()
    flags = ("--model", str(world.model), "--variant", "group", *LIMITS)
    server = ServerProcess(folder, *flags, env=os.environ | {"TMPDIR": str(folder / "tmp")})
    with contextlib.ExitStack() as held:
        held.callback(server.process.kill)
        if loads:
            time.sleep(rng.uniform(0, 6))
        else:
            client = held.enter_context(Wild(server.wait()))
            client.send({"type": "open", "version": 1})
            for number in range(rng.randint(0, 20)):
                client.send(HEADER.pack(MAGIC, number, 10.0 * number) + rng.choice(COSTLY))
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(10)
    assert code == 0 or code in (-15, 143) and loads, code
    assert not list((folder / "tmp").glob("swwatch-*")) and "Traceback" not in server.log.read_text()
    return {"signals": 1}


# ---- files and disks ------------------------------------------------------------------------------------------------

# ru_maxrss would count what the parent held when it forked
PEAK = "\nprint(next(int(line.split()[1]) // 1000 for line in open('/proc/self/status') if 'VmHWM' in line))"
READ = """
import sys
from swwatch.data.video import *
for path in sys.argv[1:]:
    try: shapes = [step.frames.shape for step in iter_steps(path, max_frames=None)]; print("read", flush=True)
    except VideoError: print("refused", flush=True)
"""
FORMS = {
    "mp4": {},
    "mkv": {},
    "webm": {"codec": "libvpx"},
    "ts": {},
    "avi": {"codec": "mpeg4"},
    "mov": {"codec": "mpeg4"},
    "h264": {},
    "gif": {"codec": "gif", "pix_fmt": "gray"},
    "ivf": {"codec": "libsvtav1", "options": {"preset": "12"}},
}


def damaged_files(world: World, rng: random.Random, count: int = 25) -> dict:
    """Videos with bytes changed, cut out or cut off: read, or refused with the reason; no crash, no hang."""
    from tests.helpers.numbered_videos import write_constant

    folder, paths = world.new(), []
    for number in range(count):
        ending = rng.choice(list(FORMS))
        source = world.folder / f"whole.{ending}"
        if not source.exists():
            write_constant(source, Fraction(25), 60, **FORMS[ending])
        data = bytearray(source.read_bytes())
        for _ in range(rng.randint(1, 8)):
            place = rng.randrange(len(data))
            how = rng.choice(["byte", "zeros", "cut out", "cut off"])
            length = 1 if how == "byte" else rng.randint(1, max(1, len(data) // 20))
            if how == "cut off":
                del data[max(place, 1) :]
            elif how == "cut out":
                del data[place : place + length]
            else:
                data[place : place + length] = bytes(length) if how == "zeros" else bytes([rng.randrange(256)])
            data = data or bytearray(1)
        paths.append(folder / f"{number}.{ending}")
        paths[-1].write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", READ + PEAK, *map(str, paths)], capture_output=True, text=True, timeout=300
    )
    answers = done.stdout.split()
    assert done.returncode == 0 and len(answers) == count + 1, f"{paths[len(answers)]}: {done.stderr[-500:]}"
    assert int(answers[-1]) < 600, f"{answers[-1]} MB"
    return {what: answers.count(what) for what in ("read", "refused")}


def full_disks(world: World, rng: random.Random) -> dict:
    """A disk that is too small by any amount: done, or one line and exit code 2; with room it ends well."""
    folder = world.new()
    needs = {
        "toy data": (["toy", "data", "OUT", "--clips", 4, "--test-clips", 2, "--workers", 1], 120_000),
        "train": (
            ["train", "--variant", "group", "--model-path", world.model, "--train-data", world.clips]
            + ["--output-dir", "OUT", *SMALL, "--precision", "float32"],
            4_000_000,
        ),
        "eval": (
            ["eval", "--variant", "group", "--model-path", world.model, "--data-dir", world.clips]
            + ["--output-dir", "OUT", "--device", "cpu"],
            300_000,
        ),
        "export": (["export", world.model, "OUT"], 700_000),
        "stream": (
            ["stream", "--video", world.clips.parent / "videos" / "0.mp4", "--model", world.model]
            + ["--variant", "group", "--jsonl", "OUT"],
            60_000,
        ),
    }
    argv, need = needs[rng.choice(list(needs))]
    command = [folder / "disk" / "out" if part == "OUT" else part for part in argv]
    (folder / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={rng.randint(4096, need)}", "tmpfs", str(folder / "disk")]
    subprocess.run(mount, check=True)
    try:
        code, text, _ = finished(*command)
        assert code in (0, 2) and "Traceback" not in text, text
        told = "bytes are free and more are needed" in text or "free: make room" in text
        assert code == 0 or told, text
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder / "disk")], check=True)
        again = finished(*command)
        assert again[0] == 0 or "exists" in again[1], again[1]
    finally:
        subprocess.run(["umount", "-l", str(folder / "disk")], check=True)
    return {"full": int(code == 2), "with room enough": int(code == 0)}


# ---- clients --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unharmed(world: World):
    """Around what clients do to the server: it stays up, keeps its memory, and a session says what it says alone."""
    alone, server = world.alone, world.server
    before_mb = memory_mb(server)
    yield server
    assert server.process.poll() is None and story(server) == alone
    wait_for_room(server)
    assert memory_mb(server) - before_mb < MORE_MB


def fuzz(world: World, rng: random.Random) -> dict:
    """Anything in any order over the socket."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    count = 0

    @seed(rng.getrandbits(32))
    @settings(
        max_examples=60, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.booleans(), st.lists(anything, min_size=1, max_size=12), st.sampled_from(["settle", "cut", "half", ""]))
    def connections(begun, sent, ending):
        nonlocal count
        wait_for_room(server, 12)
        with Wild(server) as wild:
            if begun:
                wild.send({"type": "open", "version": 1})
            for message in sent:
                count += 1
                if not wild.send(message):
                    break
            {"settle": wild.settle, "cut": wild.cut, "half": wild.half_close, "": lambda: None}[ending]()

    with unharmed(world) as server:
        connections()
    return {"messages": count}


def floods(world: World, rng: random.Random) -> dict:
    """A client sends without ever reading."""
    count = 0
    with unharmed(world) as server, Wild(server, max_queue=1) as lazy:
        lazy.send({"type": "open", "version": 1})
        over = time.monotonic() + 5
        what = rng.choice(["ping", "frame", "ask", "costly"])
        while time.monotonic() < over:
            frame = HEADER.pack(MAGIC, count, count / 2) + GOOD[count % len(GOOD)]
            if what == "costly":  # each some seconds behind the one before, which stays on display
                frame = HEADER.pack(MAGIC, count, 10.0 * count) + COSTLY[count % len(COSTLY)]
            order = {"type": what, **({"question": "x" * 300} if what == "ask" else {})}
            lazy.socket.socket.settimeout(1)
            try:
                if not lazy.send(frame if what in ("frame", "costly") else order):
                    break
            except TimeoutError:
                break  # it does not read on: the client itself waits
            count += 1
        lazy.cut()
    return {"messages": count}


def churn(world: World, rng: random.Random) -> dict:
    """Sessions come and go, most without goodbye."""
    with unharmed(world) as server:
        for _ in range(40):
            wait_for_room(server, 12)
            with Wild(server) as client:
                client.send({"type": "open", "version": 1})
                for number in range(rng.randint(0, 6)):
                    client.send(HEADER.pack(MAGIC, number, number / 2) + GOOD[number % len(GOOD)])
                rng.choice([client.cut, client.half_close, client.settle, lambda: client.send({"type": "stop"})])()
    return {"sessions": 40}


# ---- long streams ---------------------------------------------------------------------------------------------------


def long_streams(world: World, rng: random.Random, seconds: int = 1000) -> dict:
    """Memory of a stream of 1,000 s is that of one of 100 s."""
    variant, peaks = rng.choice(["group", "gap", "overlap"]), []
    for length in (seconds // 10, seconds):
        video = world.folder / f"{length}.mp4"
        if not video.exists():
            write_video(video, length, seed=1)
        window = ["--window", 16, "--text-sink", 8, "--text-window", 64]
        command = ["stream", "--video", video, "--model", world.model, "--variant", variant, *window]
        command += ["--schedule", "wait-k:3"]
        run = ["-c", f"import sys; from swwatch.cli import main\nassert main(sys.argv[1:]) == 0{PEAK}"]
        done = subprocess.run([sys.executable, *run, *map(str, command)], capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr[-1000:]
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 40, f"{peaks} MB"
    return {"seconds": seconds}


@dataclass(frozen=True)
class Part:
    """Attributes: trial; trials: of a full run; holds: for the table."""

    trial: Callable[[World, random.Random], dict[str, int]]
    trials: int
    holds: str


PARTS = {
    "kill-prepare": Part(kill_prepare, 15, "prepared clips are those of an undisturbed run"),
    "kill-train": Part(kill_train, 12, "weights and log are those of an undisturbed run, to the bit"),
    "kill-eval": Part(kill_eval, 12, "captions and spoken tokens are those of an undisturbed run"),
    "kill-recordings": Part(kill_recordings, 20, "all that a client was told is in the recording"),
    "signals": Part(signals, 30, "SIGTERM at any moment: an end within ten seconds, and nothing left behind"),
    "damaged": Part(damaged_files, 80, "read, or refused with the reason; no crash, hang, or more than 600 MB"),
    "disks": Part(full_disks, 40, "done, or one line and exit code 2; with room the same command ends well"),
    "fuzz": Part(fuzz, 60, "answers of the protocol alone; a session beside undisturbed; memory bounded"),
    "floods": Part(floods, 30, "a client that never reads costs bounded memory"),
    "churn": Part(churn, 30, "no session is left over; memory bounded"),
    "streams": Part(long_streams, 8, "1,000 s take no more memory than 100 s"),
}
