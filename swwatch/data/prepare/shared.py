"""What preparing any task needs: its settings, the token counter, and how paths are written."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from tokenizers import Tokenizer

from swwatch.config import check_least, setting
from swwatch.data.token_counts import TokenCounter, backend_of
from swwatch.errors import UserError

DEFAULT_TOKENIZER = "Qwen/Qwen2.5-VL-7B-Instruct"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What every task is told."""

    task: Literal["pe-video", "funqa"] = setting("pe-video", "--task funqa --help tells FunQA's own flags")
    dataset_root: Path | None = setting(None, "folder of all data (default: dataset)")
    output_dir: Path | None = setting(None, "where the jsonl files go (default: ROOT)")
    tokenizer_model_id: str = setting(DEFAULT_TOKENIZER, "hub id or folder of the tokenizer that counts")
    sample: int | None = setting(None, "keep a random sample of this many training records", least=1)
    seed: int = setting(0, "of --sample, and of the order of FunQA's val and test")

    def __post_init__(self):
        check_least(self)

    def root(self, home: Path) -> Path:
        """The folder of all data; `home` is that whose `dataset` it is by default."""
        return self.dataset_root or home / "dataset"

    def shown_root(self, home: Path) -> str:
        """How `video_path` names the dataset root, so that it is found from the jsonl wherever one stands.

        Relative as given where that is found from the jsonl's place (or is the default), else absolute.
        """
        root, shown = self.root(home), self.dataset_root or Path("dataset")
        places = [(self.output_dir or root).absolute().parent / shown]
        places += [Path.cwd() / shown] if self.dataset_root is None else []
        if not shown.is_absolute() and any(place.resolve() == root.resolve() for place in places):
            return shown.as_posix()
        return str(root.resolve())


class SplitFiles:
    """What lies beside the output of a split."""

    output: Path

    @property
    def states(self) -> Path:
        return self.output.with_name(f".{self.output.name}.parts")

    def side_file(self, ending: str) -> Path:
        return self.output.with_name(f"{self.output.stem}_{ending}")


def shown_path(path: Path, root: Path, shown_root: str) -> str:
    """A video's path as a record names it: through the dataset root where it lies in there."""
    path, root = path.absolute(), root.absolute()
    if path.is_relative_to(root):
        return str(PurePosixPath(shown_root) / path.relative_to(root).as_posix())
    return str(path)


def tell_dropped(report: dict) -> None:
    """Print why records were left out of a split, the most frequent reason first."""
    for reason, count in sorted(report["dropped"].items(), key=lambda item: -item[1]):
        print(f"  {count:9} {reason}")
    if not report["written"]:
        print("  warning: nothing passed the filter; is this the right folder, and the right tokenizer?")


def load_counter(model_id: str) -> TokenCounter:
    """The token counter of a tokenizer folder or hub id. Its tokenizer.json is enough: transformers, which takes
    seconds to import, is asked only where there is none."""
    try:
        file = _tokenizer_file(model_id)
        return TokenCounter(Tokenizer.from_file(str(file)) if file else _made_by_transformers(model_id))
    except UserError:
        raise
    except Exception as error:  # the loaders raise many kinds; every one means that the id or folder will not do
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"cannot load the tokenizer {model_id} ({reason}); give --tokenizer-model-id the folder of a "
            "Qwen2.5-VL checkpoint, or check the network"
        ) from error


def _tokenizer_file(model_id: str) -> Path | None:
    """The tokenizer.json of a folder or hub id; None: it has none."""
    if Path(model_id).is_dir():
        file = Path(model_id) / TOKENIZER_FILE
        return file if file.is_file() else None

    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(model_id, TOKENIZER_FILE))
    except errors.LocalEntryNotFoundError:  # no network
        raise
    except errors.EntryNotFoundError:
        return None


def _made_by_transformers(model_id: str) -> Tokenizer:
    from transformers import AutoTokenizer

    return backend_of(AutoTokenizer.from_pretrained(model_id))
