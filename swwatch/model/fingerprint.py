"""Which checkpoint or file it is, by its content."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swwatch.model.loading import Loaded

SAMPLES, SAMPLE_BYTES = 32, 1 << 16  # of a weight file: all 15 GB of a 7B model would take a minute to read


def fingerprint(path: str, loaded: "Loaded") -> str:
    """Tells checkpoints apart by content: that of a folder, or a hub id with its commit."""
    from swwatch.model.upstream import private  # torch is behind it

    return folder_fingerprint(path) or f"{path}@{private(loaded.model.config, '_commit_hash')}"


def folder_fingerprint(path: str | Path) -> str | None:
    """Training on in the same folder changes it, moving the folder does not; None: it is no folder.

    JSON files count in full, weight files by size and some pieces spread evenly.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as content:
            if file.suffix == ".json" or size <= SAMPLES * SAMPLE_BYTES:
                digest.update(content.read())
                continue
            for i in range(SAMPLES):
                content.seek((size - SAMPLE_BYTES) * i // (SAMPLES - 1))
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()


def file_sha256(*files: Path) -> str:
    """Of the content of a file, or of several one after the other; in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)
    return digest.hexdigest()
