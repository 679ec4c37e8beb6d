"""The hub data set, shard by shard, against a server in the hub's form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from swwatch.data.annotations import resolve_video
from swwatch.data.prepare.command import main
from swwatch.data.prepare.parts import PeVideoSplit, prepare
from swwatch.data.prepare.sources import hub_parts
from swwatch.errors import UserError
from tests.helpers.hub_server import Hub
from tests.helpers.pe_video_files import (
    REPOSITORY,
    clip_bytes,
    count_words,
    ids,
    read_lines,
    record,
    save_word_tokenizer,
    shard_bytes,
)

REPO = "someone/PE-Video"
SHARDS = {
    f"train/{number:06}.tar": shard_bytes([record(10 * number + n, 40 if n else 4) for n in range(4)])
    for number in range(5)
}
FILES = SHARDS | {"test/000000.tar": shard_bytes([record(99)]), "train/notes.txt": b"x", "README.md": b"x"}
PASSING = [n for n in range(50) if n % 10 in (1, 2, 3)]


@pytest.fixture(autouse=True)
def own_hub_settings(monkeypatch, tmp_path):
    """Nothing of the user's own hub settings counts here."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def hub(monkeypatch):
    with Hub(REPO, dict(FILES)) as server:
        point_to(server, monkeypatch)
        yield server


def point_to(server: Hub, monkeypatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def prepared(root: Path, workers=1, **options) -> dict:
    folder = root / "PE-Video"
    job = PeVideoSplit(
        "train", root / "train.jsonl", hub_parts(REPO, "train"), folder, f"{root}/PE-Video", "words", **options
    )
    return prepare([job], count_words, workers)[0]


def left_over(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if p.suffix in (".tar", ".incomplete", ".metadata") or p.name == ".cache"]


def test_all_pages_are_read_and_only_passing_clips_stay(tmp_path, hub):
    report = prepared(tmp_path)
    assert ids(tmp_path / "train.jsonl") == PASSING
    assert report["entries"] == 20 and report["dropped"] == {"too_few_tokens": 5}
    for line in read_lines(tmp_path / "train.jsonl"):
        video = resolve_video(line["video_path"], tmp_path / "train.jsonl")
        assert video.read_bytes() == clip_bytes(line["video_id"])
    assert len(list((tmp_path / "PE-Video" / "videos" / "train").iterdir())) == len(PASSING)
    assert hub.fetched() == sorted(SHARDS), "each shard once, nothing else"
    assert not left_over(tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_shards_than_workers_are_on_disk(tmp_path, hub, workers):
    on_disk = []
    hub.before_storage = lambda path: on_disk.append(len(list(tmp_path.rglob("*.tar"))))
    prepared(tmp_path, workers=workers)
    assert len(on_disk) == 5 and max(on_disk) < workers, "the one about to come is not there yet"


def test_a_transfer_that_breaks_off_is_taken_up_again(tmp_path, hub):
    hub.break_off = {"train/000002.tar"}
    prepared(tmp_path)
    assert ids(tmp_path / "train.jsonl") == PASSING
    assert hub.fetched().count("train/000002.tar") == 2


def test_a_second_run_fetches_nothing_and_a_changed_shard_only_itself(tmp_path, hub):
    prepared(tmp_path, sample=6)
    first = ids(tmp_path / "train.jsonl")
    hub.requests.clear()
    prepared(tmp_path, sample=6)
    assert not hub.fetched() and ids(tmp_path / "train.jsonl") == first
    hub.files["train/000001.tar"] = shard_bytes([record(77)])
    prepared(tmp_path)
    assert "train/000001.tar" in hub.fetched()
    assert ids(tmp_path / "train.jsonl") == [n for n in PASSING if n < 10] + [77] + [n for n in PASSING if n > 19]


def test_the_token_goes_to_the_hub_and_never_to_the_storage_host(tmp_path, monkeypatch):
    with Hub(REPO, dict(FILES), token="hf_good") as server:
        point_to(server, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        prepared(tmp_path)
        assert ids(tmp_path / "train.jsonl") == PASSING
        assert server.stored_tokens == [None] * 5


@pytest.mark.parametrize("token", [None, "hf_stranger"])
def test_a_gated_data_set_tells_to_accept_its_terms_and_log_in(tmp_path, monkeypatch, token):
    with Hub(REPO, dict(FILES), token="hf_good") as server:
        point_to(server, monkeypatch)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match="accept them on .*someone/PE-Video.*hf auth login"):
            prepared(tmp_path)
    assert not left_over(tmp_path) and not (tmp_path / "train.jsonl").exists()


def test_unknown_data_set_missing_split_and_bad_id_say_so(hub, monkeypatch):
    for token in ("", "hf_some"):  # strangers are answered 401, others 404
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match="knows no data set someone/else.*--hub-id"):
            hub_parts("someone/else", "train")
    with pytest.raises(UserError, match="lacks a file or folder"):
        hub_parts(REPO, "validation")
    with pytest.raises(UserError, match="is no hub data set id"):
        hub_parts("a/b/c", "train")
    hub.files = {"train/readme.txt": b"x"}
    with pytest.raises(UserError, match=r"has no train/\*.tar"):
        hub_parts(REPO, "train")


def test_offline_mode_says_how_to_go_on(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set.*--train-dir"):
        hub_parts(REPO, "train")
    assert not hub.requests


def test_a_hub_that_is_away_is_told_from_an_unknown_data_set(monkeypatch):
    with Hub(REPO, {}) as server:
        point_to(server, monkeypatch)
    with pytest.raises(UserError, match="could not get someone/PE-Video from http://127.0.0.1.*check the network"):
        hub_parts(REPO, "train")


def test_auto_takes_the_hub_only_when_there_is_nothing_local(tmp_path, hub, monkeypatch, capsys):
    tokenizer = save_word_tokenizer(tmp_path / "tokenizer")
    flags = ["--dataset-root", str(tmp_path), "--tokenizer-model-id", str(tokenizer), "--dataset-name", REPO]
    assert main([*flags, "--limit-shards", "2"]) == 0
    assert set(hub.fetched()) == {"train/000000.tar", "train/000001.tar", "test/000000.tar"}
    assert "from the hub data set someone/PE-Video" in capsys.readouterr().out
    hub.requests.clear()
    for split in ("train", "test"):
        (tmp_path / "PE-Video" / split).mkdir()
        (tmp_path / "PE-Video" / split / "0.tar").write_bytes(shard_bytes([record(5)]))
    assert main(flags) == 0
    assert not hub.requests and ids(tmp_path / "train_3_5.jsonl") == [5]


def test_a_killed_download_goes_on_with_the_shard_it_was_at(tmp_path):
    """The real command with the real environment variables; killed while the third shard is on its way."""
    tokenizer = save_word_tokenizer(tmp_path / "tokenizer")
    with Hub(REPO, dict(FILES), token="hf_good") as server:
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_good", "HF_HOME": str(tmp_path / "hf")}
        command = [
            sys.executable,
            REPOSITORY / "mani_data.py",
            "--source",
            "hub",
            "--hub-id",
            REPO,
            "--splits",
            "train",
        ]
        command += ["--dataset-root", "d", "--tokenizer-model-id", str(tokenizer), "--workers", "1"]
        running = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        server.before_storage = lambda path: running.kill() if path == "train/000002.tar" else None
        assert running.wait(60) == -9, running.stderr.read()
        assert not (tmp_path / "d" / "train_3_5.jsonl").exists()
        server.before_storage = lambda path: None
        server.requests.clear()
        again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert server.fetched() == sorted(SHARDS)[2:]
        assert "2 of 5 parts were finished before" in again.stdout
    assert ids(tmp_path / "d" / "train_3_5.jsonl") == PASSING
    assert not left_over(tmp_path / "d")
