"""What is frozen stays to the bit; what is trained moves."""

import pytest
import torch
from safetensors.torch import load_file

from swwatch.errors import UserError
from swwatch.train.command import main
from swwatch.train.parts import parts, set_trainable


def test_the_three_parts_are_the_whole_model_and_do_not_overlap(load_tiny):
    model = load_tiny("group").model
    found = [id(p) for part in parts(model).values() for p in part]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    assert all(parts(model).values())


@pytest.mark.parametrize("moving", [("vision",), ("merger",), ("llm",), ("merger", "llm")], ids="+".join)
def test_only_the_chosen_parts_move(flags, tiny_checkpoint, tmp_path, moving):
    choice = {f"train_{part}": part in moving for part in ("vision", "merger", "llm")}
    assert main(flags(**choice, max_steps=2)) == 0
    before = load_file(tiny_checkpoint / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {}
    for name in before:
        part = "merger" if "merger" in name else "vision" if "visual." in name else "llm"
        moved.setdefault(part, []).append(not torch.equal(before[name], after[name]))
    for part, changed in moved.items():
        # softmax ignores the biases of keys, so these may keep still: most, not all, must move
        assert sum(changed) > 0.8 * len(changed) if part in moving else not any(changed), part


def test_freezing_everything_is_refused(load_tiny):
    model = load_tiny("group").model
    try:
        with pytest.raises(UserError, match="nothing to train"):
            set_trainable(model, vision=False, merger=False, llm=False)
    finally:
        set_trainable(model, vision=True, merger=True, llm=True)  # the model is shared
