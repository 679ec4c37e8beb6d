"""One visibility rule, executed three ways: a dense mask, FlexAttention's block mask, flash-attention's segments.

All three are made from the columns of a batch (data/batch.py), so that they cannot disagree: `dense_mask` asks
`visibility.can_see` for all pairs of tokens (under sdpa of each sample, where several share a row), FlexAttention
asks it inside its kernel, and flash-attention takes the borders between samples, which is exact where a sample is
plain causal. Legend: B rows, L tokens of a row, K blocks.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers.utils import is_flash_attn_2_available

from swwatch.data.batch import COLUMNS
from swwatch.errors import UserError
from swwatch.rules import variants
from swwatch.rules.visibility import BEFORE, ORDER, OWN, PAST, SEES, SEES_CARRIED, STEP, can_see, can_see_carried

# the user's name -> transformers' name
BACKENDS = {
    "sdpa": "sdpa",
    "eager": "eager",
    "flex": "flex_attention",
    "flash_attention_2": "flash_attention_2",
}
ATTENTION = tuple(BACKENDS)
BLOCK = 128  # tokens of a block: FlexAttention's own default
FAR = 1 << 32  # more than any order or step, less than 2^63 with millions of samples


def check_attention(variant: str, backend: str) -> None:
    """Refuse a backend that cannot execute the variant's mask.

    Raises:
        UserError: names the backends that can.
    """
    if backend not in ATTENTION:
        raise UserError(f"no attention backend {backend!r}: choose one of {', '.join(ATTENTION)}")
    if backend == "flash_attention_2" and variants.get(variant).streams > 1:
        raise UserError(f"flash_attention_2 is causal only and {variant!r} is not: use sdpa or eager, or flex on cuda")


def choose_attention(
    variant: str, device: str, dtype: torch.dtype, flash_available: bool | None = None, carried: bool = False
) -> tuple[str, str]:
    """The training backend for a variant on a device, and why.

    Args:
        device: cpu, cuda, cuda:0.
        dtype: that attention computes in, under autocast the autocast's.
        flash_available: whether flash-attention is installed; by default it is looked for.
        carried: whether patches have carriers.
    """
    if not device.startswith("cuda"):
        return "sdpa", f"dense mask: on {device} FlexAttention has no backward pass"
    flash = is_flash_attn_2_available() if flash_available is None else flash_available
    causal, half = variants.get(variant).streams == 1 and not carried, dtype in (torch.bfloat16, torch.float16)
    if causal and half and flash:
        return "flash_attention_2", f"{variant} is causal, and flash-attention is installed"
    if not causal:
        name = f"{variant} with carriers" if carried else variant
        return "flex", f"{name} has a mask of its own, which FlexAttention executes block by block"
    return "flex", "flash-attention is not installed" if half else f"flash-attention does not compute in {dtype}"


def dense_mask(columns: torch.Tensor, carried: bool = False) -> torch.Tensor:
    """(B, 5, L) columns -> (B, 1, L, L) bool, true where a row may attend. Memory grows with L squared.

    Args:
        carried: here and below, whether patches have carriers, see rules.visibility.
    """
    q, k = (dict(zip(COLUMNS, c.unbind(1), strict=True)) for c in (columns[..., None], columns[..., None, :]))
    rule = can_see_carried if carried else can_see
    seen = rule(q["stream"], q["order"], q["sees"], k["stream"], k["order"], k["step"], k["sees"])
    return ((q["sample"] == k["sample"]) & seen)[:, None]


@dataclass(frozen=True)
class SplitSamples:
    """The S samples of a batch as rows of their own, padded to the longest (M tokens), for attention alone.

    Attributes:
        index: (S M,) which of the batch's B L tokens, row after row, is there; at padding the sample's last one.
        back: (B L,) where each token of the batch is.
        mask: (S, 1, M, M) bool, the dense mask of each sample; padding is seen by none.
    """

    index: torch.Tensor
    back: torch.Tensor
    mask: torch.Tensor


def split_samples(columns: torch.Tensor, carried: bool = False) -> SplitSamples | None:
    """(B, 5, L) columns -> its samples as rows, padding counting as a sample: in a packed row they see nothing of one
    another, and so they need cost little more than alone.

    Returns:
        None where that saves less than half of the pairs of tokens.
    """
    borders = _borders(columns).long()
    sizes = borders.diff()
    longest = int(sizes.max())
    if 2 * len(sizes) * longest**2 > len(columns) * columns.shape[-1] ** 2:
        return None
    place = torch.arange(longest, device=columns.device)
    real = place < sizes[:, None]  # (S, M)
    index = (borders[:-1, None] + place.minimum(sizes[:, None] - 1)).flatten()
    rows = columns.transpose(0, 1).flatten(1)[:, index].unflatten(1, real.shape).transpose(0, 1)  # (S, 5, M)
    return SplitSamples(index, real.flatten().nonzero()[:, 0], dense_mask(rows, carried) & real[:, None, None])


def block_mask(columns: torch.Tensor, carried: bool = False) -> BlockMask:
    """(B, 5, L) columns -> the same mask for FlexAttention, in memory that grows with L (and (L / 128) squared).

    No pair of tokens is looked at here. Blocks of 128 tokens are told apart by the least and the largest value that
    their columns hold: no pair visible (skipped), all pairs visible (the rule is not asked), or asked in the kernel.
    """
    some, every = _block_pairs(columns, carried)
    rule = can_see_carried if carried else can_see
    sample, stream, order, sees, step = columns.int().unbind(1)  # (B, L) each

    def mask_mod(b, h, q, k):
        same = sample[b, q] == sample[b, k]
        queries, keys = (stream[b, q], order[b, q], sees[b, q]), (stream[b, k], order[b, k], step[b, k], sees[b, k])
        return same & rule(*queries, *keys)

    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(columns.shape[-1], columns.shape[-1]),
    )


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, K, K) bool -> how many of each row are set (B, 1, K), and their indices first (B, 1, K, K), int32."""
    index = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], index.int()[:, None].contiguous()


def _block_pairs(columns: torch.Tensor, carried: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks of queries against blocks of keys: (may any pair be visible, are all pairs visible), each (B, K, K) bool.

    The second is exact but for an incomplete last block. The first may say yes to a block without a visible pair,
    which costs time and nothing else. A key's sample counts as the leading digits of its order and step, so that one
    comparison speaks for both.
    """
    num_blocks = -(-columns.shape[-1] // BLOCK)
    free = num_blocks * BLOCK - columns.shape[-1]
    blocks = torch.nn.functional.pad(columns.long(), (0, free)).unflatten(-1, (num_blocks, BLOCK))
    sample, stream, order, sees, step = blocks.unbind(1)  # (B, K, 128) each
    real = torch.nn.functional.pad(torch.ones_like(columns[:, 0], dtype=torch.bool), (0, free))
    real = real.unflatten(-1, (num_blocks, BLOCK))
    whole = real.all(-1)

    def span(values: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(least, largest) of the chosen tokens of each block, (B, K); (largest int, -1) where there are none."""
        none = torch.iinfo(torch.int64).max
        return torch.where(chosen, values, none).amin(-1), torch.where(chosen, values, -1).amax(-1)

    def pairs(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return queries[:, :, None] >= keys[:, None, :]

    low, high = span(sample, real)
    some = torch.zeros((len(columns), num_blocks, num_blocks), dtype=torch.bool, device=columns.device)
    one_sample = (low == high) & whole
    every = (low[:, :, None] == low[:, None, :]) & one_sample[:, :, None] & one_sample[:, None, :]
    compared = {ORDER: (order, order), STEP: (sees, step), PAST: (sees, sees + 1)}
    compared |= {OWN: (FAR - 1 - sees, FAR - 1 - step), BEFORE: (sees, step + 1)}
    table = SEES_CARRIED if carried else {q: {k: (far,) for k, far in SEES[q].items()} for q in SEES}
    for q_stream, k_stream in product(table, table):
        q_real, k_real = (stream == q_stream) & real, (stream == k_stream) & real
        if k_stream not in table[q_stream]:
            every &= ~(q_real.any(-1)[:, :, None] & k_real.any(-1)[:, None, :])
            continue
        possible = []
        for far in table[q_stream][k_stream]:
            q_value, k_value = compared[far]
            q_least, q_most = span(sample * FAR + q_value, q_real)
            k_least, k_most = span(sample * FAR + k_value, k_real)
            possible.append(pairs(q_most, k_least))  # no query (-1) and no key (largest int) answer no by themselves
            every &= pairs(q_least, k_most)  # and here yes, as they must
        some |= torch.stack(possible).all(0)
    return some & (high[:, None, :] >= low[:, :, None]), every


def flash_segments(columns: torch.Tensor) -> dict:
    """(B, 5, L) columns of causal samples -> the arguments of flash-attention's variable-length kernel.

    A segment ends where the sample changes or the row ends: never where positions start anew, which is the beginning
    of an answer in batch and group. The batch counts as one sequence of B x L tokens; padding is a segment too.

    Raises:
        UserError: a sample is not plain causal.
    """
    stream, order, ends = columns[:, 1], columns[:, 2], _ends(columns)
    ordered = (order[:, 1:] > order[:, :-1]) | ends[:, :-1]
    if bool(stream.any()) or not bool(ordered.all()):
        raise UserError("flash_attention_2 is causal only and this mask is not: use sdpa or eager, or flex on cuda")
    borders = _borders(columns)
    longest = int(borders.diff().max())
    return {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}


def _ends(columns: torch.Tensor) -> torch.Tensor:
    """(B, L) bool, true at the last token of a sample or of its row."""
    sample = columns[:, 0]
    ends = torch.ones_like(sample, dtype=torch.bool)
    ends[:, :-1] = sample[:, 1:] != sample[:, :-1]
    return ends


def _borders(columns: torch.Tensor) -> torch.Tensor:
    """(samples + 1,) int32: where samples begin and end when the rows lie behind one another."""
    return torch.nn.functional.pad(_ends(columns).flatten().nonzero()[:, 0] + 1, (1, 0)).int()
