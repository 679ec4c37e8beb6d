"""BERTScore: token embeddings of caption and reference matched one by one (Zhang et al. 2020, arXiv 1904.09675).

Precision: each caption token's largest cosine similarity to a token of the reference, averaged over the caption;
recall the same from the reference; F1 their harmonic mean. As in the authors' program (Tiiiger/bert_score) the marks
of beginning and end may be matched but count for nothing themselves, a caption is cut to what the model reads, and an
empty caption scores 0. Values depend on model and layer: only equal ones compare, so both belong beside every number.
"""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer

from swwatch.errors import UserError
from swwatch.metrics.batches import BATCH_SIZE, by_length, pad

# Best layer on WMT16 by the authors: Tiiiger/bert_score, bert_score/utils.py, `model2layers` (commit cb582ed)
BEST_LAYER = {
    "bert-base-uncased": 9,
    "bert-large-uncased": 18,
    "bert-base-multilingual-cased": 9,
    "distilbert-base-uncased": 5,
    "roberta-base": 10,
    "roberta-large": 17,  # the authors' choice for English
    "roberta-large-mnli": 19,
    "xlm-roberta-base": 9,
    "xlm-roberta-large": 17,
    "microsoft/deberta-base-mnli": 9,
    "microsoft/deberta-large-mnli": 18,
    "microsoft/deberta-xlarge-mnli": 40,
}
_NAMES = ("BERTScore-P", "BERTScore-R", "BERTScore")
_BLANK_FIRST = ("roberta", "gpt2")  # the authors give these a blank before the first word


class BertScore:
    """A metric for `caption_scores`: BERTScore (F1), BERTScore-P and BERTScore-R of every clip.

    Args:
        name: folder or hub id of an encoder that transformers' AutoModel reads, with its tokenizer.
        layer: 0 is the embeddings; needed where BEST_LAYER does not know the name.
        idf: weigh tokens by how rare they are among the references of the set, log((N + 1) / (n + 1)).
        baseline: a file of the authors' `rescale_baseline` (LAYER,P,R,F): values become (x - b) / (1 - b).
        device: where it computes; the weights move there at the first use.
    Raises:
        UserError: no such model, weights that are missing, no such layer, or a baseline file without it.
    """

    def __init__(
        self,
        name: str,
        *,
        layer: int | None = None,
        idf: bool = False,
        baseline: Path | None = None,
        device: str = "cpu",
        batch_size: int = BATCH_SIZE,
    ):
        known = name.removeprefix("FacebookAI/").removeprefix("google-bert/")  # as the hub calls the old names today
        self.layer = BEST_LAYER.get(known) if layer is None else layer
        self.name, self.idf, self.device, self.batch_size = name, idf, device, batch_size
        if self.layer is None:
            raise UserError(
                f"--bertscore {name}: the best layer of this model is not known, give --bertscore-layer (the table of "
                f"known ones has {', '.join(BEST_LAYER)})"
            )
        try:
            config = AutoConfig.from_pretrained(name)
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.model, found = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).strip().split("\n")[0]
            raise UserError(f"no model for BERTScore at {name!r}: give a folder or a hub id ({first})") from error
        missing = sorted(key for key in found["missing_keys"] if "pooler" not in key)  # no part of a token embedding
        if missing:
            raise UserError(f"{name} lacks {len(missing)} weights of its own architecture, such as {missing[0]}")
        self.num_layers = config.num_hidden_layers
        if not 0 <= self.layer <= self.num_layers:
            raise UserError(f"--bertscore-layer {self.layer}: {name} has layers 0 to {self.num_layers}")
        self.max_length = _max_length(config, self.tokenizer)
        self.prefix = " " if config.model_type in _BLANK_FIRST else ""
        self.baseline = None if baseline is None else _baseline(baseline, self.layer)
        how = f"{name}, layer {self.layer}" + ", idf" * idf + (f", rescaled by {baseline}" if baseline else "")
        self.about = dict.fromkeys(_NAMES, how)
        self.model.eval()

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
        """Precision, recall and F1 of captions, each against the reference with the best F1."""
        pairs = [(i, target) for i, targets in enumerate(references) for target in targets]
        texts = sorted({text.strip() for text in (*captions, *(target for _, target in pairs))})
        embedded = self._embed([text for text in texts if text])
        weights = self._weights([target for _, target in pairs])
        best: list[tuple[float, float, float] | None] = [None] * len(captions)
        for i, target in pairs:
            score = _match(embedded.get(captions[i].strip()), embedded.get(target.strip()), weights)
            if best[i] is None or score[2] > best[i][2]:
                best[i] = score
        if self.baseline is not None:
            best = [tuple((x - b) / (1 - b) for x, b in zip(row, self.baseline, strict=True)) for row in best]
        return {name: [row[k] for row in best] for k, name in enumerate(_NAMES)}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text with the model's marks of beginning and end."""
        return self.tokenizer(self.prefix + text.strip(), truncation=True, max_length=self.max_length)["input_ids"]

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> dict[str, tuple[list[int], torch.Tensor]]:
        """text -> its token ids and (L, D) unit embeddings, on the CPU."""
        model, fill = self.model.to(self.device), self.tokenizer.pad_token_id or 0
        rows = [self.ids(text) for text in texts]
        found = {}
        batches = list(by_length(rows, self.batch_size))
        for batch in tqdm(batches, desc="BERTScore", unit="batch", disable=None):
            states_BLD = model(
                input_ids=pad([rows[i] for i in batch], fill, self.device),
                attention_mask=pad([[1] * len(rows[i]) for i in batch], 0, self.device),
                output_hidden_states=True,
            ).hidden_states[self.layer]
            for i, states_LD in zip(batch, states_BLD, strict=True):
                states_LD = torch.nn.functional.normalize(states_LD[: len(rows[i])].float(), dim=-1)
                found[texts[i]] = (rows[i], states_LD.cpu())
        return found

    def _weights(self, references: list[str]) -> dict[int, float]:
        """Token id -> what it counts; ids that are not in it count `None`'s weight."""
        if not self.idf:
            marks = (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id)
            return {None: 1.0} | {mark: 0.0 for mark in marks if mark is not None}
        seen = Counter(token for text in references for token in set(self.ids(text)))
        rarity = {token: math.log((len(references) + 1) / (n + 1)) for token, n in seen.items()}
        return {None: math.log(len(references) + 1)} | rarity


def _match(caption, reference, weights: dict[int, float]) -> tuple[float, float, float]:
    """Precision, recall, F1 of (token ids, (L, D) unit embeddings) of two texts; None is an empty text."""
    if caption is None or reference is None:
        return 0.0, 0.0, 0.0
    similarity_LK = caption[1] @ reference[1].T
    sides = ((caption[0], similarity_LK.max(dim=1).values), (reference[0], similarity_LK.max(dim=0).values))
    means = []
    for ids, best in sides:
        weight = torch.tensor([weights.get(token, weights[None]) for token in ids])
        means.append(float((best * weight).sum() / weight.sum()) if weight.sum() > 0 else 0.0)
    precision, recall = means
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total > 0 else 0.0


def _max_length(config, tokenizer) -> int:
    """How many tokens the model reads; RoBERTa's positions begin after its padding id."""
    limit = getattr(config, "max_position_embeddings", None) or 512
    if "roberta" in config.model_type:
        limit -= config.pad_token_id + 1
    return min(limit, tokenizer.model_max_length)


def _baseline(path: Path, layer: int) -> tuple[float, float, float]:
    try:
        rows = {int(row["LAYER"]): row for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())}
        return tuple(float(rows[layer][name]) for name in "PRF")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is no baseline file with layer {layer}: lines of LAYER,P,R,F are wanted ({error!r})"
        ) from error
