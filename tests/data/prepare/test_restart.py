"""Preparation can be killed anywhere, and redoes exactly what a change touches."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swwatch.data.prepare.parts import prepare
from swwatch.errors import UserError
from tests.helpers.pe_video_files import (
    REPOSITORY,
    SHARDS,
    count_words,
    ids,
    job,
    prepared,
    record,
    tree,
    write_shards,
)

KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{repository!r}]
from tests.helpers.killed import KillBefore
from tests.helpers.pe_video_files import count_words, job
from swwatch.data.prepare.parts import prepare
item = job(Path({root!r}), sample={sample!r})
count = KillBefore({steps})
prepare([item], count_words, workers=2)
sys.setprofile(None)
print("steps", count.done)
"""


def child(root: Path, steps: int, sample: int | None) -> subprocess.CompletedProcess:
    """Prepare in a process of its own that kills itself just before its `steps`-th file operation."""
    code = KILLED.format(repository=str(REPOSITORY), steps=steps, root=str(root), sample=sample)
    quiet = os.environ | {"TQDM_DISABLE": "1"}  # a progress bar writes when it likes: steps would not be countable
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=quiet)


@pytest.mark.parametrize("sample", [None, 7])
def test_after_a_kill_at_any_step_a_restart_gives_the_same_files(tmp_path, sample):
    root = tmp_path / "w"
    write_shards(root / "PE-Video" / "train", SHARDS)
    whole = child(root, 10**9, sample)
    assert whole.returncode == 0, whole.stderr
    wanted, num_steps = tree(root), int(whole.stdout.split()[-1])
    assert len(ids(root / "train_3_5.jsonl")) == (sample or 20)
    codes = []
    for steps in range(2, num_steps, num_steps // 16):
        for path in [root / "train_3_5.jsonl", *root.glob("train_3_5_*")]:
            path.unlink(missing_ok=True)
        for folder in (root / ".train_3_5.jsonl.parts", root / "PE-Video" / "videos"):
            subprocess.run(["rm", "-rf", folder], check=True)
        codes += [child(root, steps, sample).returncode, child(root, steps // 2 + 1, sample).returncode]
        prepared(root, sample=sample)
        assert tree(root) == wanted, f"killed at step {steps} of {num_steps}"
    assert set(codes) <= {-signal.SIGKILL, 0}, "a second start may have little left to do; nothing else goes wrong"
    assert codes[::2].count(-signal.SIGKILL) >= 12, "two threads do not take quite the same steps each time"


def test_finished_parts_are_not_done_again(tmp_path):
    write_shards(tmp_path / "PE-Video" / "train", SHARDS)
    asked = []

    def counting(texts):
        asked.append(len(texts))
        if len(asked) == 4:
            raise RuntimeError("power cut")
        return count_words(texts)

    with pytest.raises(RuntimeError):
        prepare([job(tmp_path)], counting)
    prepare([job(tmp_path)], counting)
    assert asked == [5] * 7, "three parts, the one that failed, then the three that were left"
    prepare([job(tmp_path)], counting)
    assert asked == [5] * 7, "nothing is left to do"


def changes(root: Path) -> dict:
    """Name of a change -> options of the next job, after making the change."""

    def other_content():
        write_shards(root / "PE-Video" / "train", [*SHARDS[:-1], [record(900)]])
        return {}

    def lost_clip():
        (root / "PE-Video" / "videos" / "train" / "101.mp4").unlink()
        return {}

    return {
        "another tokenizer": (lambda: {"tokenizer": "other"}, 6),
        "another shard": (other_content, 1),
        "a clip was deleted": (lost_clip, 1),
        "nothing": (dict, 0),
    }


@pytest.mark.parametrize("name", ["another tokenizer", "another shard", "a clip was deleted", "nothing"])
def test_a_change_redoes_exactly_what_depends_on_it(tmp_path, name):
    folder = tmp_path / "PE-Video" / "train"
    write_shards(folder, SHARDS)
    prepared(tmp_path)
    before = {p: p.stat() for p in folder.iterdir()}
    make, num_parts = changes(tmp_path)[name]
    options = make()
    if name == "another shard":  # the others were written again: give them their old times back
        for path in sorted(before)[:-1]:
            os.utime(path, ns=(before[path].st_atime_ns, before[path].st_mtime_ns))
    asked = []
    prepare([job(tmp_path, **options)], lambda texts: asked.append(1) or count_words(texts))
    assert len(asked) == num_parts
    clips = {p.stem for p in (tmp_path / "PE-Video" / "videos" / "train").iterdir()}
    assert {str(n) for n in ids(tmp_path / "train_3_5.jsonl")} <= clips


def test_two_runs_cannot_write_one_output(tmp_path):
    write_shards(tmp_path / "PE-Video" / "train", SHARDS[:1])

    def second(texts):
        with pytest.raises(UserError, match="another run"):
            prepared(tmp_path)
        return count_words(texts)

    prepare([job(tmp_path)], second)
