"""What "auto" is, by what the device can, and that it is told."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from swwatch.errors import UserError
from swwatch.model.dtype import dtype_of


@pytest.mark.parametrize("unit", ["amx_bf16", "avx512_bf16", None])
def test_auto_is_bfloat16_where_the_cpu_multiplies_in_it_and_tells_why(unit, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True} | ({unit: True} if unit else {}))
    assert dtype_of("auto", "cpu") is (torch.bfloat16 if unit else torch.float32)
    printed = capsys.readouterr().err
    assert (
        f"by its {unit}" in printed if unit else "float32, for this cpu is not known to multiply bfloat16" in printed
    )


def test_the_default_is_what_it_was_and_names_may_be_short(capsys):
    assert (dtype_of(None, "cpu"), dtype_of(None, "cuda:1")) == (torch.float32, torch.bfloat16)
    assert (dtype_of("bf16", "cpu"), dtype_of("fp32", "cuda")) == (torch.bfloat16, torch.float32)
    assert dtype_of(torch.float64, "cpu") is torch.float64
    with pytest.raises(UserError, match="no dtype 'int3': choose auto"):
        dtype_of("int3", "cpu")
    assert capsys.readouterr().err == ""


def test_the_tokenizer_of_a_checkpoint_is_read_once(load_tiny, monkeypatch):
    read, opened = [], PreTrainedTokenizerBase.from_pretrained.__func__
    monkeypatch.setattr(
        PreTrainedTokenizerBase, "from_pretrained", classmethod(lambda *a, **k: read.append(a) or opened(*a, **k))
    )
    loaded = load_tiny("group", dtype="bf16")
    assert len(read) == 1
    assert loaded.model.dtype is torch.bfloat16 and loaded.markup.video == loaded.model.config.video_token_id
