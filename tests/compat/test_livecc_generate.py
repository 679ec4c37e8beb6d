"""The loop of LiveCC's model card, `generate` included, with the drop-in: the words of a plain recompute."""

import functools

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from swwatch.compat import livecc_utils as lc
from swwatch.toy.checkpoint import make_checkpoint
from swwatch.toy.clips import Recipe, write_dataset

PENALTY = 1.05
SIZES = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """A tiny Qwen2-VL with the drop-in bound as the card binds it, its processor, and a clip."""
    folder = tmp_path_factory.mktemp("card")
    write_dataset(folder / "clips", Recipe(1, 1, 0), workers=1)
    made = make_checkpoint(folder / "model", family="qwen2_vl", **SIZES)
    model = Qwen2VLForConditionalGeneration.from_pretrained(made).eval()
    bound = functools.partial(lc.prepare_multiturn_multimodal_inputs_for_generation, model)
    model.prepare_inputs_for_generation = bound
    return model, AutoProcessor.from_pretrained(made), str(sorted(folder.rglob("*.mp4"))[0])


def clips_of(path: str):
    """(start, stop, frames) of three turns, of 6, 2 and 2 frames."""
    reader, height, width = lc.get_smart_resized_video_reader(path, 128 * 28 * 28)
    pts, begin = np.asarray(reader.get_frame_timestamp(range(len(reader))))[:, 1], 0
    for start, count in ((0.0, 6), (3.0, 2), (4.0, 2)):
        stamps = torch.arange(count) * 0.5 + start
        frames, _, found = lc.get_smart_resized_clip(reader, height, width, stamps, pts, begin)
        begin = found[-1] + 1
        yield start, start + count / 2, frames


def say(model, processor, content: list, videos, past: torch.Tensor | None, cache, num_tokens: int):
    """One call of the card's `live_cc` or `video_qa`: what was fed to `generate`, and its output."""
    message = {"role": "user", "content": content}
    text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    if past is not None:
        text = "<|im_end|>\n" + text[text.index("<|im_start|>user") :]
    inputs = processor(text=text, images=None, videos=videos, return_tensors="pt", return_attention_mask=False)
    if past is not None:
        inputs["input_ids"] = torch.cat([past, inputs.input_ids], dim=1)
    how = {"do_sample": False, "repetition_penalty": PENALTY, "max_new_tokens": num_tokens, "pad_token_id": 0}
    out = model.generate(**inputs, past_key_values=cache, return_dict_in_generate=True, **how)
    return inputs, out


@torch.inference_mode()
def recomputed(model, ids: torch.Tensor, first: int, grids, pixels, num_tokens: int) -> list[int]:
    """Greedy words without any cache: turn 0, of `first` tokens, in 3-D, whatever follows counts on by one."""
    said = []
    for _ in range(num_tokens):
        types = (ids == model.config.video_token_id).int() * 2
        head, delta = model.model.get_rope_index(ids[:, :first], types[:, :first], video_grid_thw=grids[:1])
        tail = (torch.arange(first, ids.shape[1]) + delta[0]).expand(3, 1, -1)
        places = torch.cat([head, tail], dim=-1)
        shown = {"pixel_values_videos": pixels, "video_grid_thw": grids}
        logits = model(input_ids=ids, position_ids=places, use_cache=False, **shown).logits[0, -1]
        used = torch.unique(ids)
        logits[used] = torch.where(logits[used] > 0, logits[used] / PENALTY, logits[used] * PENALTY)
        said.append(int(logits.argmax()))
        ids = torch.cat([ids, logits.argmax().view(1, 1)], dim=1)
        if said[-1] in np.atleast_1d(model.generation_config.eos_token_id):
            break
    return said


def test_the_cards_loop_says_the_words_of_a_plain_recompute(card):
    model, processor, path = card
    past = cache = None
    first, grids, pixels, spoken = 0, [], [], []
    for start, stop, frames in clips_of(path):
        content = [{"type": "text", "text": f"Time={start:.1f}-{stop:.1f}s"}, {"type": "video", "video": frames}]
        content += [] if past is not None else [{"type": "text", "text": "What do you see?"}]
        inputs, out = say(model, processor, content, [frames], past, cache, 6)
        grids.append(inputs["video_grid_thw"])
        pixels.append(inputs["pixel_values_videos"])
        length = inputs["input_ids"].shape[1]
        first = first or length
        spoken = out.sequences[0, length:].tolist()
        expected = recomputed(model, inputs["input_ids"], first, torch.cat(grids), torch.cat(pixels), 6)
        assert spoken == expected and len(spoken) > 1
        past, cache = out.sequences[:, :-1], out.past_key_values
        assert cache.get_seq_length() == past.shape[1]

    inputs, out = say(model, processor, [{"type": "text", "text": "And before?"}], None, past, cache, 6)  # video_qa
    answer = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    assert answer == recomputed(model, inputs["input_ids"], first, torch.cat(grids), torch.cat(pixels), 6)
