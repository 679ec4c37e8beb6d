"""Preparation: what comes out depends on the input and the flags alone, whatever happens on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepare_world import (
    REPOSITORY,
    add_member,
    clip_bytes,
    count_words,
    ids,
    job,
    read_lines,
    record,
    save_word_tokenizer,
    tree,
    write_json_folder,
    write_shards,
)

from swwatch.cli import run
from swwatch.data.annotations import read_jsonl, resolve_video
from swwatch.data.parts import Sampler, prepare
from swwatch.data.prepare import main
from swwatch.errors import UserError

GOLDEN = json.loads((REPOSITORY / "tests" / "golden" / "filter_cases.json").read_text(encoding="utf-8"))["cases"]
SHARDS = [
    [record(n, num_words=40 if n % 3 else 10, fps=23.976, nested={"a": [n]}) for n in range(start, start + 5)]
    for start in range(100, 130, 5)
]


@pytest.fixture
def no_terminal(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> str:
    return str(save_word_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def prepared(root: Path, **options) -> dict:
    workers = options.pop("workers", 1)
    return prepare([job(root, **options)], count_words, workers)[0]


# --- what is kept, and how it is written -------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_the_whole_program_agrees_with_the_reference(case, tmp_path):
    folder = tmp_path / "PE-Video" / "train"
    folder.mkdir(parents=True)
    (folder / f"{case['file_stem']}.json").write_text(json.dumps(case["record"]), encoding="utf-8")
    (item,) = [job(tmp_path, kind="json")]
    prepare([item], count_words)
    kept = read_lines(item.output)
    assert len(kept) == case["kept"]
    if kept and case["output_video_path"]:
        shown = case["output_video_path"].replace("dataset/", f"{tmp_path}/", 1)
        video_id = case["record"].get("video_id", int(case["file_stem"]))
        assert kept == [case["record"] | {"video_id": video_id, "video_path": shown}]


def test_shards_give_records_as_they_were_and_kept_clips_only(tmp_path):
    write_shards(tmp_path / "PE-Video" / "train", SHARDS)
    report = prepared(tmp_path)
    wanted = [item for shard in SHARDS for item in shard if item["video_id"] % 3]
    lines = read_lines(tmp_path / "train_3_5.jsonl")
    assert [{k: v for k, v in line.items() if k != "video_path"} for line in lines] == wanted
    videos = tmp_path / "PE-Video" / "videos" / "train"
    assert {p.name for p in videos.iterdir()} == {f"{item['video_id']}.mp4" for item in wanted}
    for line in read_jsonl(tmp_path / "train_3_5.jsonl"):
        path = resolve_video(line["video_path"], tmp_path / "train_3_5.jsonl")
        assert path.read_bytes() == clip_bytes(line["video_id"])
    assert report["entries"] == report["kept"] + sum(report["dropped"].values()) == 30
    assert report["dropped"] == {"too_few_tokens": 10}


def test_output_does_not_depend_on_workers_or_the_order_files_were_made(tmp_path):
    results = []
    for name, workers in (("a", 1), ("b", 4)):
        root = tmp_path / name
        for shards in (SHARDS, list(reversed(SHARDS))):  # the second pass makes the files anew, last first
            write_shards(root / "PE-Video" / "train", shards)
        write_shards(root / "PE-Video" / "train", SHARDS)
        prepared(root, workers=workers)
        results.append({n: b.replace(str(root).encode(), b"") for n, b in tree(root).items()})
    assert results[0] == results[1]


def test_json_folder_order_is_by_name_and_videos_are_found_beside_or_under_videos(tmp_path):
    folder = tmp_path / "PE-Video" / "train"
    records = [record(n) for n in random.Random(0).sample(range(100, 110), 10)]
    write_json_folder(folder, records)
    (folder / "103.mp4").touch()
    (tmp_path / "PE-Video" / "videos" / "train").mkdir(parents=True)
    (tmp_path / "PE-Video" / "videos" / "train" / "104.mp4").touch()
    report = prepared(tmp_path, kind="json")
    paths = {line["video_id"]: line["video_path"] for line in read_lines(tmp_path / "train_3_5.jsonl")}
    assert list(paths) == list(range(100, 110))
    assert paths[103] == f"{folder}/103.mp4"
    assert paths[104] == f"{tmp_path}/PE-Video/videos/train/104.mp4"
    assert paths[105] == f"{tmp_path}/PE-Video/videos/train/105.mp4"
    assert report["written_without_video_file"] == 8


def test_a_record_without_id_takes_its_file_name(tmp_path):
    folder = tmp_path / "PE-Video" / "train"
    folder.mkdir(parents=True)
    for stem in ("7", "clip_x"):
        anonymous = {k: v for k, v in record(0).items() if k != "video_id"}
        (folder / f"{stem}.json").write_text(json.dumps(anonymous))
        (folder / f"{stem}.mp4").touch()
    prepared(tmp_path, kind="json")
    assert ids(tmp_path / "train_3_5.jsonl") == [7, "clip_x"]
    for line in read_jsonl(tmp_path / "train_3_5.jsonl"):
        resolve_video(line["video_path"], tmp_path / "train_3_5.jsonl")


# --- what is broken is listed ------------------------------------------------------------------------------------


def rejects(root: Path) -> dict[str, str]:
    return {Path(r["where"]).name: r["reason"] for r in read_lines(root / "train_3_5_rejects.jsonl")}


def test_every_malformed_json_file_is_listed_with_its_reason(tmp_path):
    folder = tmp_path / "PE-Video" / "train"
    write_json_folder(folder, [record(1), record(2, duration="ten"), record(5) | {"human_caption": 7}])
    contents = {
        "bad.json": b"{",
        "latin.json": b'{"human_caption": "\xe9"}',
        "list.json": b"[]",
        "deep.json": b"[" * 100_000,
        "no_duration.json": json.dumps({"video_id": 3, "human_caption": "x"}).encode(),
        "no_caption.json": json.dumps({"video_id": 4, "video_duration_in_s": 9}).encode(),
        "escape.json": json.dumps(record("../../etc/x")).encode(),
        "twin.json": json.dumps(record(1)).encode(),
        "null_caption.json": json.dumps(record(6) | {"human_caption": None}).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "dir.json").mkdir()
    report = prepared(tmp_path, kind="json")
    assert rejects(tmp_path) == {
        "2.json": "duration_not_a_number",
        "5.json": "caption_not_text",
        "bad.json": "bad_json",
        "deep.json": "bad_json",
        "dir.json": "unreadable",
        "escape.json": "video_id_bad",
        "latin.json": "not_utf8",
        "list.json": "not_an_object",
        "no_caption.json": "caption_missing",
        "no_duration.json": "duration_missing",
        "twin.json": "duplicate_video_id",
    }
    assert ids(tmp_path / "train_3_5.jsonl") == [1]
    assert report["malformed"] == 11 and report["dropped"]["caption_null"] == 1
    assert report["entries"] == report["kept"] + sum(report["dropped"].values()) == 13


def test_members_without_partner_and_repeated_members_are_listed(tmp_path):
    folder = tmp_path / "PE-Video" / "train"
    folder.mkdir(parents=True)
    text = json.dumps(record(1)).encode()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name in ("1.json", "2.json", "3.mp4", "1.mp4", "1.mp4", "4.txt", "sub/5.mp4", "sub/5.json"):
            add_member(tar, name, text.replace(b": 1,", b": 5,") if name == "sub/5.json" else text)
    report = prepared(tmp_path)
    assert rejects(tmp_path) == {
        "0.tar:2": "no_video_member",
        "0.tar:3": "no_json_member",
        "0.tar:1.mp4": "repeated_member",
    }
    assert ids(tmp_path / "train_3_5.jsonl") == [1, 5]
    assert report["entries"] == report["kept"] + sum(report["dropped"].values())


BLOCK = 512  # a record of these shards takes four: JSON header, JSON, clip header, clip
DAMAGED = {  # what is left of a good shard, and which of its records 2, 3 and 4 are
    "zero bytes": (lambda good: b"", []),
    "no tar": (lambda good: b"<html>not found</html>" * 100, []),
    "cut in the second clip": (lambda good: good[: 7 * BLOCK + 50], [2]),
    "cut between samples": (lambda good: good[: 4 * BLOCK], [2]),
    "damaged header": (lambda good: good[: 4 * BLOCK] + b"\xff" * BLOCK + good[5 * BLOCK :], [2]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_an_unreadable_shard_is_listed_and_what_can_be_read_counts(tmp_path, name):
    folder = tmp_path / "PE-Video" / "train"
    shards = [[record(1)], [record(2), record(3), record(4)], [record(5)]]
    write_shards(folder, shards)
    make, readable = DAMAGED[name]
    (folder / "000001.tar").write_bytes(make((folder / "000001.tar").read_bytes()))
    report = prepared(tmp_path)
    assert rejects(tmp_path)["000001.tar"] == "unreadable_shard"
    assert ids(tmp_path / "train_3_5.jsonl") == [1, *readable, 5]
    assert report["entries"] == report["kept"] + sum(report["dropped"].values())
    write_shards(folder, shards)  # mended
    prepared(tmp_path)
    assert ids(tmp_path / "train_3_5.jsonl") == [1, 2, 3, 4, 5]
    assert not rejects(tmp_path)


def test_one_id_in_two_shards_is_kept_once_with_the_first_clip(tmp_path):
    folder = tmp_path / "PE-Video" / "train"
    write_shards(folder, [[record(1)], [record(1, num_words=41), record(2)]])
    for _ in range(2):  # a second run finds the same
        report = prepared(tmp_path, workers=2)
        assert [len(line["human_caption"].split()) for line in read_lines(tmp_path / "train_3_5.jsonl")] == [40, 40]
        assert rejects(tmp_path) == {"000001.tar:1": "duplicate_video_id"}
        assert report["entries"] == 3 and report["kept"] == 2


# --- sampling ----------------------------------------------------------------------------------------------------


@given(names=st.sets(st.text(max_size=5), min_size=1), seed=st.integers(0, 9), data=st.data())
def test_a_sample_depends_on_the_set_of_ids_and_the_seed_only(names, seed, data):
    size = data.draw(st.integers(1, len(names)))
    results = []
    for order in (sorted(names), data.draw(st.permutations(sorted(names)))):
        sampler, out = Sampler(size, seed), []
        for name in order:
            out.append(sampler.offer(name))
        inside = {name for _, name in sampler.heap}
        assert inside | {name for name in out if name is not None} == names and len(inside) == size
        results.append(inside)
    assert results[0] == results[1]


def test_every_id_is_sampled_equally_often():
    counts = dict.fromkeys(map(str, range(10)), 0)
    for seed in range(2000):
        sampler = Sampler(3, seed)
        for name in counts:
            sampler.offer(name)
        for _, name in sampler.heap:
            counts[name] += 1
    # each count is binomial(2000, 0.3): sd 20.5; ten counts leave +-5 sd once in 170,000 runs, and seeds are fixed
    assert all(abs(count - 600) < 103 for count in counts.values()), counts


def test_a_sample_keeps_source_order_and_only_its_clips_on_disk(tmp_path):
    write_shards(tmp_path / "PE-Video" / "train", SHARDS)
    report = prepared(tmp_path, sample=4, seed=1, workers=3)
    chosen = ids(tmp_path / "train_3_5.jsonl")
    assert len(chosen) == 4 and chosen == sorted(chosen) and report["kept"] == 20
    assert {p.name for p in (tmp_path / "PE-Video" / "videos" / "train").iterdir()} == {f"{n}.mp4" for n in chosen}
    prepared(tmp_path, sample=6, seed=1)
    assert set(chosen) < set(ids(tmp_path / "train_3_5.jsonl")), "a larger sample of a seed holds the smaller"
    prepared(tmp_path, sample=4, seed=2)
    assert ids(tmp_path / "train_3_5.jsonl") != chosen
    for line in read_jsonl(tmp_path / "train_3_5.jsonl"):
        resolve_video(line["video_path"], tmp_path / "train_3_5.jsonl")


def test_a_sample_larger_than_what_passes_is_an_error_and_leaves_no_output(tmp_path):
    write_shards(tmp_path / "PE-Video" / "train", SHARDS)
    with pytest.raises(UserError, match="only 20 train records pass"):
        prepared(tmp_path, sample=21)
    assert not (tmp_path / "train_3_5.jsonl").exists()


# --- kill it anywhere --------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, threading
from pathlib import Path
sys.path[:0] = [{tests!r}, {repository!r}]
from prepare_world import count_words, job
from swwatch.data.parts import prepare
left = {steps}
files = set("open write writelines flush fsync sendfile replace unlink mkdir rmdir close __exit__".split())
def count_down(frame, event, function):
    global left
    if event == "c_call" and function.__name__ in files:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
item = job(Path({root!r}), sample={sample!r})
threading.setprofile(count_down)
sys.setprofile(count_down)
prepare([item], count_words, workers=2)
sys.setprofile(None)
print("steps", {steps} - left)
"""


def child(root: Path, steps: int, sample: int | None) -> subprocess.CompletedProcess:
    """Prepare in a process of its own that kills itself just before its `steps`-th file operation."""
    code = KILLED.format(
        tests=str(Path(__file__).parent), repository=str(REPOSITORY), steps=steps, root=str(root), sample=sample
    )
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
    assert set(codes) == {-signal.SIGKILL, 0}, "a second start may have little left to do; nothing else goes wrong"
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


# --- the command -------------------------------------------------------------------------------------------------


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
        (["--sample", "0"], "--sample has to be 1 or more"),
        (["--workers", "0"], "--workers has to be 1 or more"),
        (["--sample", "2", "--splits", "test"], "--sample is for the train split"),
        (["--test-output-name", "train_3_5.jsonl"], "have to differ"),
        (["--source", "json"], "holds no *.json file"),
        (["--source", "shards", "--train-dir", "nowhere"], "there is no folder nowhere"),
        (["--train-dir", "nowhere"], "the splits differ"),
        (["--tokenizer-model-id", "./nowhere"], "cannot load the tokenizer ./nowhere"),
        (["--source", "shards", "--hub-id", "a/b"], "--hub-id has no use"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(tmp_path, tokenizer, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    both_splits(tmp_path / "dataset")
    assert run(main, ["--tokenizer-model-id", tokenizer, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_a_folder_of_both_kinds_asks_which_is_meant(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both_splits(tmp_path / "dataset")
    write_json_folder(tmp_path / "dataset" / "PE-Video" / "train", [record(1)])
    with pytest.raises(UserError, match="--source json or --source shards"):
        main(["--tokenizer-model-id", tokenizer])


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
