"""Preparation: what comes out depends on the input and the flags alone, whatever happens on the way."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.annotations import read_jsonl, resolve_video
from swwatch.data.prepare.parts import prepare
from swwatch.data.prepare.sample import Sampler
from swwatch.data.prepare.sources import read_shard
from swwatch.errors import UserError
from tests.helpers.pe_video_files import (
    REPOSITORY,
    SHARDS,
    add_member,
    clip_bytes,
    count_words,
    ids,
    job,
    prepared,
    read_lines,
    record,
    tree,
    write_json_folder,
    write_shards,
)

GOLDEN = json.loads((REPOSITORY / "tests" / "golden" / "filter_cases.json").read_text(encoding="utf-8"))["cases"]


# --- what is kept, and how it is written -------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_the_whole_program_agrees_with_the_reference(case, tmp_path):
    folder = tmp_path / "PE-Video" / "train"
    folder.mkdir(parents=True)
    (folder / f"{case['file_stem']}.json").write_text(json.dumps(case["record"]), encoding="utf-8")
    (item,) = [job(tmp_path, kind="json")]
    prepare([item], count_words)
    lines = read_lines(item.output)
    assert len(lines) == case["kept"]
    if lines and case["output_video_path"]:
        shown = case["output_video_path"].replace("dataset/", f"{tmp_path}/", 1)
        video_id = case["record"].get("video_id", int(case["file_stem"]))
        assert lines == [case["record"] | {"video_id": video_id, "video_path": shown}]


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


def test_keys_with_dots_and_capital_endings_are_samples_and_other_members_of_one_are_not(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("0001.json", "0001.mp4", "0001.meta.json", "clip_1.5s.json", "clip_1.5s.mp4", "d/a.b.json"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        for name in ("d/a.b.mp4", "0004.JSON", "0004.MP4", "lone.x.json"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with tarfile.open(tmp_path / "0.tar") as tar:
        told = {entry.where: entry.problem for entry in read_shard(tar, "0.tar")}
    keys = ("0001", "clip_1.5s", "d/a.b", "0004")
    assert told == dict.fromkeys(f"0.tar:{key}" for key in keys) | {"0.tar:lone.x": "no_video_member"}
