"""The training loss without the logits of a whole sequence, which outgrow everything else: 152 thousand a token.

Only rows that have a label, which are those of the answer, get logits at all. Legend: B batch, L sequence, D width,
R rows with a label, V vocabulary.
"""

import importlib.util

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.checkpoint import checkpoint

from swwatch.data.batch import COLUMNS
from swwatch.data.prompt import IGNORED, Markup
from swwatch.errors import UserError
from swwatch.rules.visibility import THOUGHT

CHUNK = 1024  # rows whose logits exist at once: 0.6 GB in float32
LIGER = "liger_kernel"


def token_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: nn.Module,
    *,
    num_items=None,
    way: str = "chunked",
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy of each labelled token, from the row before it: the loss that transformers computes.

    Args:
        hidden: (B, L, D) after the last norm; labels: (B, L), IGNORED where there is none.
        head: D -> V, without bias for liger.
        num_items: what the sum is divided by; by default R, which gives the mean.
        way: "chunked", or "single" for one chunk, however long: where the head's weights are gathered from several
            processes each time they are used, all must use them equally often; or "liger".
        weights: (B, L) of each token in the sum, which liger has not; None: 1.
    """
    targets = labels[:, 1:]
    rows = targets != IGNORED
    hidden, targets = hidden[:, :-1][rows], targets[rows].to(hidden.device)  # (R, D), (R,)
    size = CHUNK if way != "single" else max(1, len(targets))
    if weights is not None:
        weights = weights[:, 1:][rows].to(hidden.device)
        parts = zip(hidden.split(size), targets.split(size), weights.split(size), strict=True)
        total = sum(checkpoint(_weighed, head, *part, use_reentrant=False) for part in parts)
    elif way == "liger":
        total = _liger(hidden, targets, head)
    else:
        parts = zip(hidden.split(size), targets.split(size), strict=True)
        # logits are computed once more for the gradient instead of being kept
        total = sum(checkpoint(_sum, head, h, t, use_reentrant=False) for h, t in parts)
    return total / (len(targets) if num_items is None else num_items)


def decision_loss(
    hidden: torch.Tensor, decisions: torch.Tensor, markup: Markup, lm_head: nn.Module, own_head: nn.Module | None
) -> torch.Tensor:
    """The sum over all decisions: cross entropy of "not yet" (the token of a video) against what begins an answer, or,
    where the model has a head of its own for it, of its two outcomes.

    Args:
        hidden: (B, L, D) after the last norm; decisions: (B, L) of data.timed.decisions_of.
        own_head: D -> 1, above 0 where an answer begins.
    """
    rows = decisions != 0
    hidden, begins, weights = hidden[rows], decisions[rows] > 0, decisions[rows].abs()
    if own_head is not None:
        found = binary_cross_entropy_with_logits(own_head(hidden)[:, 0].float(), begins.float(), reduction="none")
        return (weights * found).sum()
    targets = torch.where(begins, markup.header[0], markup.video)
    return checkpoint(_weighed, lm_head, hidden, targets, weights, use_reentrant=False)


def batch_loss(
    model,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    columns: torch.Tensor | None,
    decisions: torch.Tensor | None,
    weights: torch.Tensor | None,
    *,
    num_items=None,
    way: str,
) -> torch.Tensor:
    """The mean over words, thoughts, which count by their weight, and decisions.

    Args:
        model: a Watching; columns as of its `forward`, None where thoughts count as words do; the others as above.
    """
    if decisions is None and columns is None:
        return token_loss(hidden, labels, model.lm_head, num_items=num_items, way=way, weights=weights)
    if num_items is None:
        num_items = (labels[:, 1:] != IGNORED).sum()
        num_items += 0 if decisions is None else decisions.count_nonzero()
    how = {"num_items": 1, "way": way}
    if columns is None:
        loss = token_loss(hidden, labels, model.lm_head, **how)
    else:
        thought = (columns[:, COLUMNS.index("stream")] == THOUGHT).to(labels.device)
        parts = labels.masked_fill(thought, IGNORED), labels.masked_fill(~thought, IGNORED)
        words, thoughts = (token_loss(hidden, part, model.lm_head, **how) for part in parts)
        loss = words + model.thought_weight * thoughts
    if decisions is not None:
        loss = loss + decision_loss(hidden, decisions, model.markup, model.lm_head, model.decision_head)
    return loss / num_items


def _weighed(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (weights * cross_entropy(head(hidden).float(), targets, reduction="none")).sum()


def _sum(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="sum")


def _liger(hidden: torch.Tensor, targets: torch.Tensor, head: nn.Module) -> torch.Tensor:
    """By liger-kernel's function, which makes the gradient along with the loss. None of its model patches is used:
    they bring a forward of their own, with other positions than the variant's."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        return LigerFusedLinearCrossEntropyLoss(reduction="sum")(head.weight.to(dtype), hidden.to(dtype), targets)
    return LigerFusedLinearCrossEntropyLoss(reduction="sum")(head.weight, hidden, targets)


def choose_loss(choice: str, *, cuda: bool, sharded: bool, plain_head: bool = True) -> tuple[str, str]:
    """How the loss is computed, and why.

    Args:
        choice: auto, liger, chunked or off.
        sharded: several processes hold parts of the head's weights.
        plain_head: the head is one matrix, without adapter.
    Returns:
        "liger", "chunked", "single" or "whole", and the reason.
    Raises:
        UserError: liger is asked for and cannot be had.
    """
    there = importlib.util.find_spec(LIGER) is not None
    if choice == "liger":
        if not there:
            raise UserError("fused_loss liger needs liger-kernel: pip install liger-kernel, or use chunked")
        if not cuda:
            raise UserError("fused_loss liger needs a CUDA device: use chunked")
        if sharded or not plain_head:
            what = "sharded weights" if sharded else "an adapter on the output head"
            raise UserError(f"fused_loss liger cannot work with {what}: use chunked")
        return "liger", "as asked for"
    if choice == "off":
        return "whole", "as asked for"
    if choice == "auto" and there and cuda and not sharded and plain_head:
        return "liger", "liger-kernel is installed"
    return ("single", "its weights are sharded") if sharded else ("chunked", "logits of answer tokens only")
