"""Videos in the folder that sessions may read, and no way out of it."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from swwatch.client.codes import ProtocolError

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
MAX_LISTED = 1000


@dataclass(frozen=True)
class Folder:
    """The allowed folder; None for none. Names are relative, with forward slashes."""

    root: Path | None = None
    suffixes: tuple[str, ...] = field(default=SUFFIXES)

    def names(self) -> list[str]:
        """Videos in it, sorted, at most 1000. JSON carries no other names than UTF-8."""
        if self.root is None:
            return []
        found = []
        for path in sorted(self.root.rglob("*")):
            if path.suffix.lower() in self.suffixes and self._inside(path) is not None:
                name = path.relative_to(self.root).as_posix()
                found += [name] if _is_utf8(name) else []
                if len(found) == MAX_LISTED:
                    break
        return found

    def path(self, name: str) -> Path:
        """The file of this name.

        Raises:
            ProtocolError: not_found, and nothing more: not whether a file outside exists.
        """
        if self.root is not None and "\0" not in name and not Path(name).is_absolute():
            inside = self._inside(self.root / name)
            if inside is not None and ".." not in Path(name).parts and inside.suffix.lower() in self.suffixes:
                return inside
        raise ProtocolError("not_found", "no such file here: GET /api/files lists what there is", fatal=True)

    def name_of(self, address: str) -> str:
        """The name of the file that a file:// address, or a bare absolute path, leads to.

        Raises:
            ProtocolError: unsupported: there is no folder, or it is an address of another machine.
        """
        try:
            parts = urlsplit(f"file://{quote(address)}" if address.startswith("/") else address)
        except ValueError:  # such as file://[
            parts = None
        if self.root is None or parts is None or parts.netloc not in ("", "localhost"):
            raise ProtocolError("unsupported", "this server reads no such address: only files of --files FOLDER")
        path = Path(unquote(parts.path))
        inside = [root for root in (self.root, self.root.absolute(), self.root.resolve()) if path.is_relative_to(root)]
        return path.relative_to(inside[0]).as_posix() if inside else path.as_posix()

    def _inside(self, path: Path) -> Path | None:
        """Where a path leads, links followed, if that is a file inside the folder."""
        try:
            real = path.resolve(strict=True)
            return real if real.is_file() and real.is_relative_to(self.root.resolve()) else None
        except (OSError, RuntimeError, ValueError):  # missing, too long, a loop of links
            return None


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)  # how Python keeps bytes that are none
