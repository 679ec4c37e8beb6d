"""Where PE-Video records come from: folders of JSON files, tar shards, or the Hugging Face hub.

Each source is a list of parts. A part is worked off at once and is what a restart can skip: a thousand JSON files,
or one shard. `part.open(scratch)` is a context manager that gives the part's entries and, for shards, a function
that writes the clip of an entry to a file; at most one shard of a part is on disk, and none is held in memory.
"""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from swwatch.errors import UserError

FILES_PER_PART = 1000


@dataclass
class Entry:
    """One record to be, or one thing that should have been a record and is not (`problem` is then set)."""

    where: str  # a path or shard.tar:member, for people
    stem: str  # file name without extension: stands in for a missing video_id
    raw: bytes | None = None  # the JSON text
    problem: str | None = None
    detail: str = ""
    member: tarfile.TarInfo | None = None  # shards: the clip

    def parse(self) -> tuple[dict | None, str | None, str]:
        """(record, None, "") or (None, reason, detail)."""
        if self.problem:
            return None, self.problem, self.detail
        try:
            record = json.loads(self.raw.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            return None, "not_utf8", f"byte {error.start}"
        except (ValueError, RecursionError) as error:
            return None, "bad_json", str(error)
        if not isinstance(record, dict):
            return None, "not_an_object", type(record).__name__
        return record, None, ""


Extract = Callable[[Entry, Path], None]


@dataclass(frozen=True)
class JsonPart:
    """Some JSON files of a folder; their videos stay where they are."""

    folder: Path
    names: tuple[str, ...]
    identity: str  # changes when any file's name, size or time does
    size: int  # bytes, for the progress bar
    has_clips = False

    @contextmanager
    def open(self, scratch: Path) -> Iterator[tuple[Iterator[Entry], Extract | None]]:
        yield map(self._entry, self.names), None

    def _entry(self, name: str) -> Entry:
        path = os.path.join(self.folder, name)
        entry = Entry(where=path, stem=os.path.splitext(name)[0])
        try:
            with open(path, "rb", buffering=0) as file:  # of some hundred bytes; a Path takes longer than the reading
                entry.raw = file.read()
        except OSError as error:
            entry.problem, entry.detail = "unreadable", error.strerror or str(error)
        return entry


@dataclass(frozen=True)
class ShardPart:
    """A WebDataset shard on disk: a tar of `<key>.mp4` and `<key>.json` side by side."""

    name: str
    identity: str
    size: int
    path: Path | None = None  # None: see HubPart
    has_clips = True

    def fetch(self, scratch: Path) -> Path:
        return self.path

    @contextmanager
    def open(self, scratch: Path) -> Iterator[tuple[Iterator[Entry], Extract | None]]:
        path = self.fetch(scratch)
        try:
            tar = tarfile.open(path, "r:")
        except (tarfile.TarError, OSError) as error:
            yield iter([Entry(self.name, path.stem, problem="unreadable_shard", detail=str(error))]), None
            return
        with tar:
            yield iter(read_shard(tar, self.name)), lambda entry, target: extract_clip(tar, entry, target)


@dataclass(frozen=True)
class HubPart(ShardPart):
    """A shard of a hub data set: downloaded when its turn comes, deleted when its clips are out."""

    repo_id: str = ""
    revision: str = ""  # commit hash

    def fetch(self, scratch: Path) -> Path:
        from huggingface_hub import hf_hub_download

        with hub_errors(self.repo_id):
            return Path(
                hf_hub_download(
                    self.repo_id, self.name, repo_type="dataset", revision=self.revision, local_dir=scratch / "shard"
                )
            )

    @contextmanager
    def open(self, scratch: Path) -> Iterator[tuple[Iterator[Entry], Extract | None]]:
        try:
            with super().open(scratch) as opened:
                yield opened
        finally:
            shutil.rmtree(scratch / "shard", ignore_errors=True)


def read_shard(tar: tarfile.TarFile, name: str) -> list[Entry]:
    """The entries of an open shard in tar order, with whatever is amiss in it as entries of its own.

    Only JSON members are read into memory. A shard that breaks off keeps the records before the break.
    """
    entries: dict[str, Entry] = {}
    extra: list[Entry] = []

    def broken(detail: str) -> None:
        extra.append(Entry(name, PurePosixPath(name).stem, problem="unreadable_shard", detail=detail))

    try:
        for member in tar:
            # WebDataset's keys end at the first dot of the file name; those that hold dots themselves are kept whole
            path = PurePosixPath(member.name)
            stem, extension = path.stem, path.suffix.lower().removeprefix(".")
            if not member.isfile() or extension not in ("json", "mp4"):
                continue
            key = str(path.with_name(stem))
            entry = entries.setdefault(key, Entry(f"{name}:{key}", stem))
            if (entry.raw if extension == "json" else entry.member) is not None:
                extra.append(Entry(f"{name}:{member.name}", stem, problem="repeated_member"))
            elif extension == "json":
                entry.raw = tar.extractfile(member).read()
            else:
                entry.member = member
    except (tarfile.TarError, OSError) as error:
        broken(f"breaks off after {len(entries)} samples: {error}")
    else:
        # tarfile takes a damaged header for the end of the archive, and a file cut between members for a whole one
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            broken(f"no end-of-archive mark after {len(entries)} samples: the file is damaged or cut short")
    size = os.fstat(tar.fileobj.fileno()).st_size
    for key in [key for key, entry in entries.items() if entry.raw is None or entry.member is None]:
        first = PurePosixPath(key).name.partition(".")[0]
        if first != PurePosixPath(key).name and str(PurePosixPath(key).with_name(first)) in entries:
            del entries[key]  # another member of the sample of that key, such as 0001.meta.json
    for entry in entries.values():
        cut = entry.member is not None and entry.member.offset_data + entry.member.size > size
        if entry.raw is None:
            entry.problem = "no_json_member"
        elif entry.member is None or cut:
            entry.problem, entry.detail = "no_video_member", "the shard ends within it" if cut else ""
    return [*entries.values(), *extra]


def extract_clip(tar: tarfile.TarFile, entry: Entry, target: Path) -> None:
    """Write the clip of an entry to `target` and make sure it is on disk."""
    with tar.extractfile(entry.member) as clip, target.open("wb") as file:
        shutil.copyfileobj(clip, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def local_kind(folder: Path) -> str | None:
    """`json` or `shards`, by what the folder of a split holds; None when neither.

    Raises:
        UserError: both lie there, so the user has to say which is meant.
    """
    found = {os.path.splitext(item.name)[1] for item in os.scandir(folder)} if folder.is_dir() else set()
    if {".json", ".tar"} <= found:
        raise UserError(f"{folder} holds both *.json and *.tar; choose with --source json or --source shards")
    return "json" if ".json" in found else "shards" if ".tar" in found else None


def _names(folder: Path, suffix: str) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name it with --train-dir or --test-dir, or take --source hub")
    found = sorted(name for name in os.listdir(folder) if name.endswith(suffix))
    if not found:
        raise UserError(f"{folder} holds no *{suffix} file; name another with --train-dir or --test-dir")
    return found


def _identity(folder: Path, names: list[str]) -> tuple[str, int]:
    """What changes when any of the files does, and their bytes together. Of a million files no more is held."""
    stats = [
        (name, stat.st_size, stat.st_mtime_ns) for name in names for stat in [os.stat(os.path.join(folder, name))]
    ]
    digest = hashlib.sha256(repr(stats).encode("utf-8", "surrogateescape")).hexdigest()
    return digest, sum(size for _, size, _ in stats)


def json_parts(folder: Path, files_per_part: int = FILES_PER_PART) -> list[JsonPart]:
    """Parts of a folder of JSON files, in the order of their names."""
    names = _names(folder, ".json")
    chunks = (names[start : start + files_per_part] for start in range(0, len(names), files_per_part))
    return [JsonPart(folder, tuple(chunk), *_identity(folder, chunk)) for chunk in chunks]


def shard_parts(folder: Path) -> list[ShardPart]:
    """One part for each tar shard of a folder, in the order of their names."""
    return [ShardPart(name, *_identity(folder, [name]), folder / name) for name in _names(folder, ".tar")]


def hub_parts(repo_id: str, split: str) -> list[HubPart]:
    """One part for each `<split>/*.tar` of a hub data set, in the order of their names, pinned to one commit.

    HF_ENDPOINT, HF_TOKEN (or `hf auth login`) and HF_HUB_OFFLINE count as everywhere in huggingface_hub.

    Raises:
        UserError: offline, no such data set, no access, no shards; says what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    with hub_errors(repo_id):
        revision = api.dataset_info(repo_id).sha
        listing = list(api.list_repo_tree(repo_id, path_in_repo=split, repo_type="dataset", revision=revision))
    shards = sorted((f for f in listing if isinstance(f, RepoFile) and f.path.endswith(".tar")), key=lambda f: f.path)
    if not shards:
        raise UserError(f"the hub data set {repo_id} has no {split}/*.tar; choose another with --hub-id")
    return [
        HubPart(
            f.path, f"{repo_id} {f.lfs.sha256 if f.lfs else f.blob_id}", f.size, repo_id=repo_id, revision=revision
        )
        for f in shards
    ]


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what can go wrong between here and the hub into a UserError that says what to do."""
    import httpx
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repo_id}"
    advice = "or put shards or JSON files into --train-dir and --test-dir"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"the hub gives {repo_id} only to those who accepted its terms: accept them on {page}, "
            "then log in with `hf auth login` (or set HF_TOKEN) and run this again; finished parts are kept"
        ) from None
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.RemoteEntryNotFoundError):
            raise UserError(f"the hub data set {repo_id} lacks a file or folder: {_first_line(error)}") from None
        raise _unreachable(repo_id, error.__cause__ or error, advice) from None
    except errors.HfHubHTTPError as error:
        # 401 is what the hub answers a stranger for a missing, private or gated repository, and for a bad token
        if not isinstance(error, errors.RepositoryNotFoundError) and error.response.status_code != 401:
            raise _unreachable(repo_id, error, advice) from None
        raise UserError(
            f"the hub knows no data set {repo_id}, or not for you: check --hub-id; for a private one log in with "
            f"`hf auth login` (or set HF_TOKEN to a valid token), {advice}"
        ) from None
    except (errors.OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise _unreachable(repo_id, error, advice) from None
    except errors.HFValidationError as error:
        raise UserError(f"{repo_id!r} is no hub data set id such as facebook/PE-Video: {_first_line(error)}") from None
    except (RuntimeError, OSError) as error:
        # what hf_xet raises, or a download that came up short: both without errno
        if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError | TimeoutError):
            raise  # the local disk, not the hub
        raise _unreachable(repo_id, error, advice) from None


def _unreachable(repo_id: str, error: BaseException, advice: str) -> UserError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled) or constants.is_offline_mode():
        return UserError(f"HF_HUB_OFFLINE is set, so {repo_id} cannot be fetched: unset it, {advice}")
    return UserError(
        f"could not get {repo_id} from {constants.ENDPOINT} ({_first_line(error)}): check the network and HF_ENDPOINT "
        f"and run this again (finished parts are kept), {advice}"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
