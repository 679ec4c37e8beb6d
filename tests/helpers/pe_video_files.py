"""Small PE-Video worlds for the tests of data preparation: records, JSON folders, tar shards, a word tokenizer."""

import io
import json
import tarfile
from pathlib import Path

from swwatch.data.prepare import sources
from swwatch.data.prepare.parts import PeVideoSplit, prepare

REPOSITORY = Path(__file__).parents[2]


def record(video_id, num_words=40, duration=10, **extra) -> dict:
    """A record with a caption of `num_words` words; 40 words in 10 s pass."""
    caption = " ".join(["The video shows", *(f"w{n}" for n in range(num_words - 3))])
    return {"video_id": video_id, "human_caption": caption, "video_duration_in_s": duration, **extra}


def count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def clip_bytes(video_id) -> bytes:
    """Stands for a video: preparation moves clips, it does not look into them."""
    return f"clip {video_id} ".encode() * 20


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def shard_bytes(records: list[dict], video_first: bool = False) -> bytes:
    """A WebDataset shard in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for item in records:
            name = item["video_id"]
            members = [(f"{name}.json", json.dumps(item).encode()), (f"{name}.mp4", clip_bytes(name))]
            for member in reversed(members) if video_first else members:
                add_member(tar, *member)
    return buffer.getvalue()


def write_shards(folder: Path, shards: list[list[dict]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, records in enumerate(shards):
        (folder / f"{number:06}.tar").write_bytes(shard_bytes(records, video_first=number % 2 == 0))


def write_json_folder(folder: Path, records: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for item in records:
        (folder / f"{item['video_id']}.json").write_text(json.dumps(item, ensure_ascii=False), encoding="utf-8")


def save_word_tokenizer(folder: Path) -> Path:
    """A tokenizer folder in which every white-space separated word is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return folder


def job(root: Path, split="train", kind="shards", tokenizer="words", **options) -> PeVideoSplit:
    """The job of one split of the data set in `root`, as `main` would plan it."""
    folder = root / "PE-Video"
    parts = sources.shard_parts(folder / split) if kind == "shards" else sources.json_parts(folder / split, 3)
    return PeVideoSplit(split, root / f"{split}_3_5.jsonl", parts, folder, f"{root}/PE-Video", tokenizer, **options)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids(path: Path) -> list:
    return [item["video_id"] for item in read_lines(path)]


def tree(root: Path) -> dict[str, bytes]:
    """All files under root but the source and the kept state, by relative path."""
    skip = (".tar", ".json", "lock")
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {n: b for n, b in found.items() if not n.endswith(skip) or n.endswith("_report.json")}


def prepared(root: Path, **options) -> dict:
    """Prepare one split in this process; returns its report."""
    workers = options.pop("workers", 1)
    return prepare([job(root, **options)], count_words, workers)[0]


# six shards of five records; every third record has too few words
SHARDS = [
    [record(n, num_words=40 if n % 3 else 10, fps=23.976, nested={"a": [n]}) for n in range(start, start + 5)]
    for start in range(100, 130, 5)
]
