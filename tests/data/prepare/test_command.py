"""`python mani_data.py` and `swwatch prepare`, as a user calls them."""

import json
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest

from swwatch.cli import run
from swwatch.data.annotations import read_jsonl, resolve_video
from swwatch.data.prepare.command import main
from swwatch.errors import UserError
from tests.helpers.pe_video_files import (
    REPOSITORY,
    SHARDS,
    add_member,
    clip_bytes,
    ids,
    prepared,
    record,
    save_word_tokenizer,
    write_json_folder,
    write_shards,
)


@pytest.fixture
def no_terminal(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> str:
    return str(save_word_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def both_splits(root: Path) -> Path:
    write_shards(root / "PE-Video" / "train", SHARDS)
    write_shards(root / "PE-Video" / "test", [[record(1), record(2, duration=31)]])
    return root


def test_default_paths_are_the_releases_and_found_from_anywhere(tmp_path, tokenizer, monkeypatch, capsys, no_terminal):
    both_splits(tmp_path / "project" / "dataset")
    monkeypatch.chdir(tmp_path)
    assert main(["--tokenizer-model-id", tokenizer], home=tmp_path / "project") == 0
    for split, number in (("train", 20), ("test", 1)):
        jsonl = tmp_path / "project" / "dataset" / f"{split}_3_5.jsonl"
        lines = read_jsonl(jsonl)
        assert len(lines) == number
        for line in lines:
            assert line["video_path"] == f"dataset/PE-Video/videos/{split}/{line['video_id']}.mp4"
            resolve_video(line["video_path"], jsonl)
    assert "test: 2 records, 1 pass, 1 in" in capsys.readouterr().out


@pytest.mark.parametrize("root", ["data", "deep/data", "ABSOLUTE"])
@pytest.mark.parametrize("output", [None, "elsewhere/out"])
def test_paths_resolve_from_anywhere_whatever_the_root(tmp_path, tokenizer, monkeypatch, root, output, no_terminal):
    root = root.replace("ABSOLUTE", str(tmp_path / "abs"))
    monkeypatch.chdir(tmp_path)
    both_splits(Path(root))
    where = ["--output-dir", output] if output else []
    assert main(["--dataset-root", root, *where, "--tokenizer-model-id", tokenizer, "--source", "shards"]) == 0
    jsonl = (tmp_path / (output or root) / "test_3_5.jsonl").absolute()
    (tmp_path / "another").mkdir()
    monkeypatch.chdir(tmp_path / "another")
    (line,) = read_jsonl(jsonl)
    assert resolve_video(line["video_path"], jsonl).read_bytes() == clip_bytes(1)
    assert line["video_path"].startswith((root, str(tmp_path / root)))


def test_captions_are_counted_without_transformers(tmp_path, tokenizer):
    """Which takes longer to import than thousands of records take to prepare."""
    both_splits(tmp_path)
    flags = ["--dataset-root", str(tmp_path), "--tokenizer-model-id", tokenizer, "--sample", "3"]
    code = "import sys; from swwatch.data.prepare.command import main; main(sys.argv[1:])"
    code += "; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_mani_data_works_from_any_folder_without_installation(tmp_path, tokenizer):
    both_splits(tmp_path / "data")
    flags = ["--dataset-root", "data", "--tokenizer-model-id", tokenizer, "--sample", "3", "--seed", "5"]
    script = REPOSITORY / "mani_data.py"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-I", script, *flags], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(ids(tmp_path / "data" / "train_3_5.jsonl")) == 3
    assert "7 of 7 parts were finished before" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sample", "0"], "sample must be at least 1"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--sample", "2", "--splits", "test"], "--sample is for the train split"),
        (["--test-output-name", "train_3_5.jsonl"], "have to differ"),
        (["--source", "json"], "holds no *.json file"),
        (["--source", "shards", "--train-dir", "nowhere"], "there is no folder nowhere"),
        (["--train-dir", "nowhere"], "the splits differ"),
        (["--tokenizer-model-id", "./nowhere"], "cannot load the tokenizer ./nowhere"),
        (["--source", "shards", "--hub-id", "a/b"], "--hub-id has no use"),
        (["--source", "hub", "--train-dir", "x"], "--train-dir and --test-dir have no use"),
        (["--dataset-root", "typo"], "mend the path, or give --source hub"),
        (["--train-dir", "typo", "--splits", "train"], "mend the path, or give --source hub"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(tmp_path, tokenizer, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    both_splits(tmp_path / "dataset")
    assert run(partial(main, home=tmp_path), ["--tokenizer-model-id", tokenizer, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_a_folder_of_both_kinds_asks_which_is_meant(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both_splits(tmp_path / "dataset")
    write_json_folder(tmp_path / "dataset" / "PE-Video" / "train", [record(1)])
    with pytest.raises(UserError, match="--source json or --source shards"):
        main(["--tokenizer-model-id", tokenizer], home=tmp_path)


def test_truncation_stored_with_a_tokenizer_does_not_falsify_counts(tmp_path, monkeypatch, no_terminal):
    from tokenizers import Tokenizer

    folder = save_word_tokenizer(tmp_path / "tokenizer")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(35)  # 40 words would become 35: still kept, so look at the upper bound too
    backend.enable_padding(length=64)
    backend.save(str(folder / "tokenizer.json"))
    write_shards(tmp_path / "PE-Video" / "train", [[record(1, num_words=60), record(2, num_words=40)]])
    flags = ["--dataset-root", str(tmp_path), "--splits", "train", "--tokenizer-model-id", str(folder)]
    assert main(flags) == 0
    assert ids(tmp_path / "train_3_5.jsonl") == [2]


def test_only_json_members_are_read_into_memory(tmp_path):
    """A clip larger than the memory this test allows goes through whole."""
    import tracemalloc

    folder = tmp_path / "PE-Video" / "train"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number in range(3):
            add_member(tar, f"{number}.mp4", bytes(20_000_000))
            add_member(tar, f"{number}.json", json.dumps(record(number)).encode())
    tracemalloc.start()
    prepared(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "PE-Video" / "videos" / "train" / "2.mp4").stat().st_size == 20_000_000
    assert peak < 10_000_000, peak


def test_the_benchmark_runs_and_both_ways_keep_the_same(tmp_path):
    script = REPOSITORY / "scripts" / "bench_prepare.py"
    flags = ["--records", "1500", "--min-speedup", "0"]  # a busy machine is no reason to fail
    done = subprocess.run([sys.executable, script, *flags], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 1500
