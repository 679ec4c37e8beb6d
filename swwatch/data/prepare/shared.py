"""What preparing any task needs: the token counter, and how paths are written."""

from pathlib import Path

from tokenizers import Tokenizer

from swwatch.data.token_counts import TokenCounter, backend_of
from swwatch.errors import UserError

DEFAULT_TOKENIZER = "Qwen/Qwen2.5-VL-7B-Instruct"
TOKENIZER_FILE = "tokenizer.json"


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


def path_prefix(shown: Path, root: Path, output_dir: Path, is_default: bool) -> str:
    """How `video_path` names the dataset root, so that it is found from the jsonl wherever one stands.

    Relative as given where that is found from the jsonl's place (or is the default), else absolute.
    """
    places = [output_dir.absolute().parent / shown, *([Path.cwd() / shown] if is_default else [])]
    if not shown.is_absolute() and any(place.resolve() == root.resolve() for place in places):
        return shown.as_posix()
    return str(root.resolve())
