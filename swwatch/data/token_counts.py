"""How many tokens captions have, fast: all captions of a part at once, and every word only the first time it is met.

A byte-level BPE splits text before it merges bytes, and the patterns of Qwen's and GPT-2's tokenizers never let a
piece reach across a space into the next word: a space always begins a piece. So where words are parted by single
spaces, the count of a caption is the sum over its words, each with its leading space, and captions repeat their
words. Any other tokenizer, and any caption with other white space, is counted whole.
"""

import json

from tokenizers import Tokenizer

from swwatch.data.prepare.pe_video_rules import is_unicode
from swwatch.errors import UserError

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_WORDS = 1_000_000  # remembered at once: some 100 MB


def words_add_up(tokenizer: dict) -> bool:
    """Whether counts may be summed over words, by the content of a `tokenizer.json`."""
    model, normalizer, split = tokenizer["model"], tokenizer["normalizer"], tokenizer["pre_tokenizer"] or {}
    steps = split.get("pretokenizers", [split])
    *before, byte_level = steps
    plain = byte_level.get("type") == "ByteLevel" and not byte_level["add_prefix_space"]
    if before:
        qwen = {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": False}
        plain = plain and before == [qwen] and not byte_level["use_regex"]
    else:
        plain = plain and byte_level["use_regex"]
    return (
        plain
        and (normalizer is None or normalizer["type"] == "NFC")
        and model["type"] == "BPE"
        and not model.get("dropout")
        and not any(
            token["lstrip"] or token["rstrip"] or token["single_word"] or " " in token["content"]
            for token in tokenizer["added_tokens"]
        )
    )


def backend_of(tokenizer) -> Tokenizer:
    """What counts in a tokenizer of transformers.

    Raises:
        UserError: it has no fast form.
    """
    if not tokenizer.is_fast:
        raise UserError(f"{tokenizer.name_or_path} has no fast (Rust) tokenizer, which counting needs")
    return tokenizer.backend_tokenizer


class TokenCounter:
    """Counts tokens without special tokens; may be called from several threads."""

    def __init__(self, tokenizer: Tokenizer):
        """Take a tokenizer; `description` becomes its full content, so that a changed one can be told."""
        self.backend = tokenizer
        self.backend.no_truncation()  # a tokenizer.json may carry either, and both would falsify the counts
        self.backend.no_padding()
        self.description: str = self.backend.to_str()
        self.is_additive = words_add_up(json.loads(self.description))
        self.starts: dict[str, int] = {}  # first word of a text, or a whole text -> number of tokens
        self.words: dict[str, int] = {}  # any later word -> number of tokens of " word"

    def __call__(self, texts: list[str]) -> list[int]:
        """Number of tokens of each text."""
        if not self.is_additive:
            return self.count_whole(texts)
        if len(self.starts) + len(self.words) > MAX_WORDS:
            self.starts, self.words = {}, {}
        starts, words, heads, tails = self.starts, self.words, [], []
        for text in texts:
            cut = text.split()
            single_spaced = bool(cut) and " ".join(cut) == text
            heads.append(cut[0] if single_spaced else text)
            tails.append(cut[1:] if single_spaced else [])
        new = list(set(heads).difference(starts))
        starts.update(zip(new, self.count_whole(new), strict=True))
        new = list(set().union(*tails).difference(words))
        words.update(zip(new, self.count_whole([f" {word}" for word in new]), strict=True))
        return [starts[head] + sum(map(words.__getitem__, tail)) for head, tail in zip(heads, tails, strict=True)]

    def count_whole(self, texts: list[str]) -> list[int]:
        broken = next((text for text in texts if not is_unicode(text)), None)
        if broken is not None:
            raise UserError(f"the text {broken!r} holds half a character, as one cut in the middle of an emoji")
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding) for encoding in encodings]
