"""What preparing any task needs: the token counter, and how paths are written."""

from pathlib import Path

from swwatch.data.token_counts import TokenCounter
from swwatch.errors import UserError

DEFAULT_TOKENIZER = "Qwen/Qwen2.5-VL-7B-Instruct"


def load_counter(model_id: str) -> TokenCounter:
    """The token counter of a tokenizer folder or hub id."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id)
    except Exception as error:  # the loaders raise many kinds; every one means that the id or folder will not do
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"cannot load the tokenizer {model_id} ({reason}); give --tokenizer-model-id the folder of a "
            "Qwen2.5-VL checkpoint, or check the network"
        ) from error
    return TokenCounter(tokenizer)


def path_prefix(shown: Path, root: Path, output_dir: Path, is_default: bool) -> str:
    """How `video_path` names the dataset root, so that it is found from the jsonl wherever one stands.

    Relative as given where that is found from the jsonl's place (or is the default), else absolute.
    """
    places = [output_dir.absolute().parent / shown, *([Path.cwd() / shown] if is_default else [])]
    if not shown.is_absolute() and any(place.resolve() == root.resolve() for place in places):
        return shown.as_posix()
    return str(root.resolve())
