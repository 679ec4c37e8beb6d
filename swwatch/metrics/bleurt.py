"""BLEURT-20: a learned score of how well a caption says what the reference says (Sellam et al. 2020; Pu et al. 2021).

The public PyTorch form (hub id lucadiliello/BLEURT-20, and its smaller D3, D6, D12) is RemBERT's encoder with a linear
head on the pooled first token, under names of its own. Transformers knows RemBERT, so only names are translated here.
For that checkpoint its model card gives two values that a download can be held against: see EXAMPLE.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import PreTrainedConfig, RemBertConfig, RemBertForSequenceClassification
from transformers.utils import cached_file

from swwatch.errors import UserError
from swwatch.metrics.batches import BATCH_SIZE, by_length, pad

# reference, caption, BLEURT-20's value by https://huggingface.co/lucadiliello/BLEURT-20
EXAMPLE = (
    ("a bird chirps by the window", "a bird chirps by the window", 0.9990496635437012),
    ("this is a random sentence", "this looks like a random sentence", 0.7930182218551636),
)
# field of the checkpoint's config.json -> RemBERT's name of it
_SAME = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
_SAME += ("max_position_embeddings", "type_vocab_size", "layer_norm_eps")
_FIELDS = {name: name for name in _SAME} | {"embedding_size": "input_embedding_size"}
_NAMES = {r"^bleurt\.": "rembert.", r"encoder\.embedding_projection\.": "encoder.embedding_hidden_mapping_in."}
_NO_WEIGHT = "embeddings.position_ids"  # 0, 1, 2, ...: older files hold it beside the weights


@dataclass(frozen=True)
class _Vocabulary:
    """How text becomes token ids, without special tokens, and the special ones."""

    encode: Callable[[str], list[int]]
    cls_id: int
    sep_id: int
    size: int


class Bleurt:
    """A metric for `caption_scores`: BLEURT of every clip.

    Args:
        name: checkpoint folder or hub id.
        device: where it computes; the weights move there at the first use, so that a checkpoint can be examined long
            before it is wanted without taking memory from a model that is at work.
    Raises:
        UserError: there is no such checkpoint, it is not a BLEURT-20 (or D3, D6, D12), or its weights are not the
            ones that its architecture needs.
    """

    def __init__(self, name: str, *, device: str = "cpu", batch_size: int = BATCH_SIZE):
        self.name, self.device, self.batch_size = name, device, batch_size
        self.config = _config(name)
        self.vocabulary = _vocabulary(name)
        if self.vocabulary.size > self.config.vocab_size:
            raise UserError(
                f"{name}: the tokenizer has {self.vocabulary.size} tokens, the model only {self.config.vocab_size}: "
                "they do not belong together"
            )
        self.model = _model(name, self.config)
        self.about = {"BLEURT": name}

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
        """BLEURT of captions, each against its best reference; around 0 is bad, around 1 good, without a hard limit.

        An empty caption is not shown to the model, which was never trained on any: it scores 0.
        """
        best = [float("-inf")] * len(captions)
        pairs = [(i, target) for i, targets in enumerate(references) for target in targets if captions[i].strip()]
        rows = [self.encode(target, captions[i]) for i, target in pairs]
        for (i, _), value in zip(pairs, self._scores(rows), strict=True):
            best[i] = max(best[i], value)
        return {"BLEURT": [value if text.strip() else 0.0 for value, text in zip(best, captions, strict=True)]}

    def encode(self, reference: str, caption: str) -> tuple[list[int], int]:
        """[CLS] reference [SEP] caption [SEP], and how many tokens the first segment has.

        Too long a pair loses tokens from the end of the longer text, of the caption where both are as long: the rule
        of the original release (google-research/bleurt, encoding.py).
        """
        first, second = self.vocabulary.encode(reference), self.vocabulary.encode(caption)
        while len(first) + len(second) > self.config.max_position_embeddings - 3:
            (first if len(first) > len(second) else second).pop()
        cls, sep = self.vocabulary.cls_id, self.vocabulary.sep_id
        return [cls, *first, sep, *second, sep], len(first) + 2

    @torch.inference_mode()
    def _scores(self, rows: list[tuple[list[int], int]]) -> list[float]:
        model = self.model.to(self.device)
        scores = [0.0] * len(rows)
        batches = list(by_length([ids for ids, _ in rows], self.batch_size))
        for batch in tqdm(batches, desc="BLEURT", unit="batch", disable=None):
            ids = [rows[i][0] for i in batch]
            segments = [[0] * rows[i][1] + [1] * (len(rows[i][0]) - rows[i][1]) for i in batch]
            logits_B1 = model(
                input_ids=pad(ids, self.config.pad_token_id, self.device),
                attention_mask=pad([[1] * len(row) for row in ids], 0, self.device),
                token_type_ids=pad(segments, 0, self.device),
            ).logits
            for i, value in zip(batch, logits_B1[:, 0].float().tolist(), strict=True):
                scores[i] = value
        return scores


def _config(name: str) -> RemBertConfig:
    try:
        fields, _ = PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise UserError(f"no BLEURT checkpoint {name!r}: give a folder or a hub id ({_first_line(error)})") from error
    if fields.get("model_type") != "bleurt" or not fields.get("embedding_size"):
        raise UserError(
            f"{name} is not BLEURT-20 in its PyTorch form (model_type {fields.get('model_type')!r}, embedding_size "
            f"{fields.get('embedding_size')!r}): lucadiliello/BLEURT-20 is, and its D3, D6 and D12"
        )
    missing = [field for field in _FIELDS if field not in fields]
    if missing:
        raise UserError(f"{name}: config.json lacks {', '.join(missing)}")
    return RemBertConfig(
        **{ours: fields[theirs] for theirs, ours in _FIELDS.items()},
        pad_token_id=fields.get("pad_token_id", 0),
        output_embedding_size=fields.get("output_embedding_size", fields["embedding_size"]),  # no part of the score
        num_labels=1,
        bos_token_id=None,  # RemBERT's own are outside a small vocabulary, and nothing is generated here
        eos_token_id=None,
    )


def _model(name: str, config: RemBertConfig) -> RemBertForSequenceClassification:
    try:
        model, found = RemBertForSequenceClassification.from_pretrained(
            name,
            config=config,
            key_mapping=_NAMES,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with the others
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"the BLEURT weights of {name} cannot be read: {_first_line(error)}") from error
    wrong = {
        "missing": sorted(found["missing_keys"]),
        "unexpected": sorted(key for key in found["unexpected_keys"] if not key.endswith(_NO_WEIGHT)),
        "of another shape": sorted(str(key) for key in found["mismatched_keys"]),
    }
    problems = [f"{len(keys)} {what}, such as {keys[0]}" for what, keys in wrong.items() if keys]
    if problems:
        raise UserError(f"the weights of {name} are not those of a BLEURT-20: {'; '.join(problems)}")
    return model.eval()


def _vocabulary(name: str) -> _Vocabulary:
    """The checkpoint's SentencePiece model as the original release reads it, else its tokenizer.json."""
    pieces = _file(name, "spm.model")
    if pieces is not None:
        return _sentencepiece(pieces)
    path = _file(name, "tokenizer.json")
    if path is None:
        raise UserError(f"{name} has no tokenizer: neither spm.model nor tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    cls_id, sep_id = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    if cls_id is None or sep_id is None:
        raise UserError(f"{path}: there is no [CLS] or no [SEP] in the vocabulary")
    tokenizer.no_truncation()
    return _Vocabulary(
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids, cls_id, sep_id, tokenizer.get_vocab_size()
    )


def _sentencepiece(path: Path) -> _Vocabulary:
    try:
        from sentencepiece import SentencePieceProcessor  # needed by this checkpoint form only
    except ImportError as error:
        raise UserError(f"{path} needs a package that is not there: pip install sentencepiece") from error
    model = SentencePieceProcessor(model_file=str(path))
    cls_id, sep_id = (model.piece_to_id(token) for token in ("[CLS]", "[SEP]"))
    if model.unk_id() in (cls_id, sep_id):
        raise UserError(f"{path}: there is no [CLS] or no [SEP] among the pieces")
    return _Vocabulary(lambda text: model.encode(text), cls_id, sep_id, model.get_piece_size())


def _file(name: str, file: str) -> Path | None:
    """A file of the checkpoint folder or hub repository, or None."""
    found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
