"""A split by several processes: slices and a join, or a Ray cluster; killed at any moment, exactly once."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.cli import run
from swwatch.data.prepare import pe_video
from swwatch.data.prepare.command import main
from swwatch.data.prepare.parts import PeVideoSplit, prepare
from swwatch.data.prepare.slices import Slice, join, prepare_slice
from swwatch.errors import UserError
from tests.helpers.killed import KillBefore
from tests.helpers.pe_video_files import (
    REPOSITORY,
    SHARDS,
    count_words,
    ids,
    job,
    prepared,
    read_lines,
    save_word_tokenizer,
    tree,
    write_shards,
)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return str(save_word_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def start(root: Path, index: int, sample: int | None, steps: int = 0) -> int:
    """A process that prepares slice `index` of 2, and kills itself before its `steps`-th file operation; its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        if steps:
            KillBefore(steps)
        prepare_slice([job(root, sample=sample)], Slice(index, 2), count_words, 1)
        code = 0
    finally:
        os._exit(code)


def end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@given(count=st.integers(1, 9), num_parts=st.integers(0, 30))
def test_slices_take_every_part_once(count, num_parts):
    whole = PeVideoSplit("train", Path("o.jsonl"), list(range(num_parts)), Path("d"), "d", "words")
    taken = [part for index in range(1, count + 1) for part in Slice(index, count).of(whole).parts]
    assert sorted(taken) == whole.parts


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "a/b", "-1/2", "1/0"])
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(UserError, match="i/n"):
        Slice.parse(text)


@pytest.mark.parametrize("sample", [None, 7])
def test_two_workers_one_of_them_killed_give_the_files_of_one_run(tmp_path, sample):
    whole, sliced = tmp_path / "whole" / "w", tmp_path / "sliced" / "w"
    for root in (whole, sliced):
        write_shards(root / "PE-Video" / "train", SHARDS)
    prepared(whole, sample=sample)
    for steps in (20, 45):
        first, second = start(sliced, 1, sample, steps), start(sliced, 2, sample)
        assert end_of(first) == -signal.SIGKILL
        assert end_of(second) == 0
    with pytest.raises(UserError, match="not finished"):
        join([job(sliced, sample=sample)])
    assert not (sliced / "train_3_5.jsonl").exists()

    assert end_of(start(sliced, 1, sample)) == 0
    join([job(sliced, sample=sample)])

    def content(root: Path) -> dict[str, bytes]:
        return {name: data.replace(bytes(root), b"ROOT") for name, data in tree(root).items()}

    assert content(sliced) == content(whole) and len(content(whole)) > 7
    join([job(sliced, sample=sample)])
    assert content(sliced) == content(whole), "joined twice"


def test_who_holds_a_split_keeps_others_out(tmp_path):
    write_shards(tmp_path / "PE-Video" / "train", SHARDS[:2])
    asked = []

    def while_a_slice_runs(texts):
        for other in (lambda: prepare_slice([job(tmp_path)], Slice(1, 2), count_words, 1), lambda: prepared(tmp_path)):
            with pytest.raises(UserError, match="another run"):
                other()
        with pytest.raises(UserError, match="another run"):
            prepare_slice([job(tmp_path)], Slice(1, 3), count_words, 1)
        with pytest.raises(UserError, match="another run"):
            join([job(tmp_path)])
        asked.append(len(texts))
        return count_words(texts)

    prepare_slice([job(tmp_path)], Slice(1, 2), while_a_slice_runs, 1)

    def while_the_whole_runs(texts):
        with pytest.raises(UserError, match="another run"):
            prepare_slice([job(tmp_path)], Slice(2, 2), count_words, 1)
        asked.append(len(texts))
        return count_words(texts)

    prepare([job(tmp_path)], while_the_whole_runs)
    assert asked == [5, 5], "the whole does what the slice left"


def test_slices_by_the_command_line(tmp_path, tokenizer, capsys):
    write_shards(tmp_path / "PE-Video" / "train", SHARDS)
    flags = ["--dataset-root", str(tmp_path), "--tokenizer-model-id", tokenizer, "--splits", "train"]
    assert main([*flags, "--part", "2/2"]) == 0
    assert run(main, [*flags, "--join"]) == 2
    assert "3 of 6 parts" in capsys.readouterr().err
    assert main([*flags, "--part", "1/2"]) == 0 and main([*flags, "--join"]) == 0
    assert len(ids(tmp_path / "train_3_5.jsonl")) == 20
    for wrong in (["--part", "3/2"], ["--part", "1/2", "--join"]):
        assert run(main, [*flags, *wrong]) == 2


def test_the_slurm_script_prepares_its_slice_and_joins_without_an_array(tmp_path, tokenizer):
    write_shards(tmp_path / "PE-Video" / "train", SHARDS)
    script = [str(REPOSITORY / "scripts" / "slurm_prepare.sh"), "--dataset-root", str(tmp_path)]
    script += ["--tokenizer-model-id", tokenizer, "--splits", "train"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    for task in ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "1"}, {}):
        assert not (tmp_path / "train_3_5.jsonl").exists()
        subprocess.run(["bash", *script], cwd=REPOSITORY, env=plain | task, check=True, capture_output=True)
    assert len(ids(tmp_path / "train_3_5.jsonl")) == 20


def test_without_ray_a_cluster_is_refused_with_advice(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pe_video.importlib.util, "find_spec", lambda name: None)
    assert run(main, ["--dataset-root", str(tmp_path), "--cluster", "auto"]) == 2
    assert "swwatch[cluster]" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1", "127.0.0.1:99999", "no..host:1"])
def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch, tmp_path, capsys, address):
    monkeypatch.setattr(pe_video.importlib.util, "find_spec", lambda name: True)
    assert run(main, ["--dataset-root", str(tmp_path), "--cluster", address]) == 2
    assert f"no Ray cluster at {address}" in (told := capsys.readouterr().err) and "HOST:PORT" in told


def test_a_cluster_works_off_the_parts_though_a_worker_is_killed(tmp_path, tokenizer, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'swwatch[cluster]'")
    from swwatch.data.prepare import cluster

    write_shards(tmp_path / "PE-Video" / "train", SHARDS)
    deaths, work = tmp_path / "deaths", cluster._work

    def dies_once(job, part, tokenizer):
        import os
        import signal

        if not deaths.exists():
            deaths.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        work(job, part, tokenizer)

    monkeypatch.setattr(cluster, "_work", dies_once)
    flags = ["--dataset-root", str(tmp_path), "--tokenizer-model-id", tokenizer, "--splits", "train"]
    assert main([*flags, "--cluster", "local"]) == 0
    assert deaths.exists()
    once = [line["video_id"] for line in read_lines(tmp_path / "train_3_5.jsonl")]
    assert len(once) == len(set(once)) == 20
