"""A tiny checkpoint folder of random weights, of any family: the form of the real ones, without a download."""

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Regex as TokenizerRegex
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from swwatch.config import look_up
from swwatch.data.prompt import load_prompts
from swwatch.errors import UserError
from swwatch.paths import need_room, whole_folder
from swwatch.rules.families import FAMILIES, Family
from swwatch.toy import world
from swwatch.toy.recipe import was_made

RECIPE = "toy_model.json"  # says with which arguments a folder was made; written last
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, VISION_PAD = "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = [END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, VISION_PAD, IMAGE_PAD, VIDEO_PAD]

# Qwen's layout: <|im_start|>role, newline, content, <|im_end|>, newline; a default system turn
SYSTEM_BY_DEFAULT = """\
{%- if loop.first and message['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
"""
CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    + SYSTEM_BY_DEFAULT
    + """\
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif item['type'] in ('image', 'image_url') -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}
{{- item['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
)

# the real preprocessor_config.json, which configures pictures and videos alike
PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
}
# of a family with patches of 16: one file for pictures and one for videos, and no default system turn
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PATCHES_OF_16 = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2} | HALVES
PICTURES_OF_16 = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}} | PATCHES_OF_16
PICTURES_OF_16 |= {"image_processor_type": "Qwen2VLImageProcessorFast"}
VIDEOS_OF_16 = {"size": {"longest_edge": 25165824, "shortest_edge": 4096}} | PATCHES_OF_16


def make_checkpoint(
    out: Path,
    *,
    family: str = "qwen2_5_vl",
    seed: int = 0,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int | None = None,
    vision_depth: int = 3,
    vision_hidden: int = 96,
    vision_heads: int = 4,
    vision_intermediate: int | None = None,
) -> Path:
    """Write a randomly initialised folder that `from_pretrained` loads like any other.

    The same arguments give the same bytes. A folder made earlier with the same arguments is kept as it is.

    Args:
        out: the folder to make; it may exist when empty or made by this function with the same arguments.
        family: a row of rules.families.
        seed: of the weights.
        hidden, layers, heads, kv_heads: size of the language model; `hidden / heads` is the head size.
        intermediate, vision_intermediate: width of the feed-forward layers, by default three times the hidden size.
    Returns:
        `out`
    Raises:
        UserError: `out` holds something else, or the sizes do not fit each other.
    """
    out = Path(out)
    recipe = {key: value for key, value in locals().items() if key != "out"}
    if family == "qwen2_5_vl":
        del recipe["family"]  # as folders made by earlier versions have it
    row = look_up(FAMILIES, family, "family")
    _check_sizes(hidden, heads, kv_heads, vision_hidden, vision_heads)
    if was_made(out, RECIPE, recipe):
        return out

    tokenizer = make_tokenizer(row.stamps)
    text = {
        "vocab_size": (len(tokenizer) // 16 + 1) * 16,  # like the real ones, some rows to spare
        "hidden_size": hidden,
        "intermediate_size": intermediate or 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }
    vision = {"depth": vision_depth, "num_heads": vision_heads}
    inner = vision_intermediate or 3 * vision_hidden
    vision |= row.vision(vision_depth, vision_hidden, inner, hidden)
    model = _random_model(row, _configuration(row, tokenizer, text, vision), seed)

    with whole_folder(out) as part:
        need_room(out.parent, sum(p.nbytes for p in model.parameters()), str(out))
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        for name, content in _processor(row).items():
            (part / name).write_text(json.dumps(content | {"processor_class": row.processor}, indent=2) + "\n")
        (part / RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")
    return out


def _processor(family: Family) -> dict[str, dict]:
    """File name -> content of what says how pictures are read."""
    if family.patch_size == 14:
        return {"preprocessor_config.json": PREPROCESSOR}
    videos = VIDEOS_OF_16 | {"video_processor_type": f"{family.prefix}VideoProcessor"}
    return {"preprocessor_config.json": PICTURES_OF_16, "video_preprocessor_config.json": videos}


def _configuration(family: Family, tokenizer: Qwen2Tokenizer, text: dict, vision: dict) -> PretrainedConfig:
    """The configuration of a model of these sizes for this tokenizer."""
    head_size = text["hidden_size"] // text["num_attention_heads"]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": mrope_section(head_size, family.interleaved)}
    if family.interleaved:
        rope["mrope_interleaved"] = True
        text["head_dim"] = head_size
    text |= {
        "rms_norm_eps": 1e-6,
        "rope_parameters": rope,
        "bos_token_id": tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        "eos_token_id": tokenizer.convert_tokens_to_ids(IM_END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(END_OF_TEXT),
    }
    return AutoConfig.for_model(
        family.name,
        architectures=[family.upstream],
        dtype="float32",
        tie_word_embeddings=False,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_PAD),
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PAD),
        vision_start_token_id=tokenizer.convert_tokens_to_ids(VISION_START),
        vision_end_token_id=tokenizer.convert_tokens_to_ids(VISION_END),
        text_config=text,
        vision_config=vision | {"patch_size": family.patch_size, "spatial_merge_size": 2, "temporal_patch_size": 2},
    )


def _random_model(family: Family, config: PretrainedConfig, seed: int) -> torch.nn.Module:
    """transformers' own model of this configuration; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, family.upstream)(config)
        _scale_weights(model)
    model.generation_config = GenerationConfig(
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=[config.text_config.eos_token_id, config.text_config.bos_token_id],
        pad_token_id=config.text_config.pad_token_id,
        do_sample=True,
        temperature=1e-6,
        repetition_penalty=1.05,
    )
    return model


@torch.no_grad()
def _scale_weights(model: torch.nn.Module) -> None:
    """Draw matrices with standard deviation 1 / sqrt(inputs) instead of 0.02, which suits widths in the thousands.

    At width 128 the signal of the picture would all but vanish: 500 steps of the same training then end at a loss of
    0.33 (colours known) instead of 0.06 (colours and directions known, and most shapes).
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed_tokens" not in name:
            parameter.normal_(0, parameter[0].numel() ** -0.5)


def mrope_section(head_size: int, interleaved: bool = False) -> list[int]:
    """How many rotary frequencies time, height and width get: a quarter, three eighths, three eighths (as Qwen's), or
    where they take turns three eighths, five sixteenths, five sixteenths (as Qwen3-VL's)."""
    half = head_size // 2
    space = 5 * half // 16 if interleaved else 3 * half // 8
    return [half - 2 * space, space, space]


def _check_sizes(hidden: int, heads: int, kv_heads: int, vision_hidden: int, vision_heads: int) -> None:
    if hidden % heads or hidden // heads % 2 or hidden // heads < 8:
        raise UserError(f"hidden {hidden} over {heads} heads: the head size must be even and at least 8")
    if heads % kv_heads:
        raise UserError(f"{heads} heads cannot share {kv_heads} key/value heads evenly")
    if vision_hidden % vision_heads or vision_hidden // vision_heads % 4:
        raise UserError(f"vision_hidden {vision_hidden} over {vision_heads} heads: the head size must divide by 4")


def make_tokenizer(stamps: bool = False) -> Qwen2Tokenizer:
    """A byte-level BPE with Qwen2's splitting rule and special tokens; every word of a toy caption is one token.

    Args:
        stamps: of the family: the word of a time stamp is one token, too, and no system turn stands by default.
    """
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TokenizerRegex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    # No limit on the vocabulary and no rare words: merging ends when each word of the text is one token.
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 20,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_training_text() + ["<0.2 seconds>"] * stamps, trainer)
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (END_OF_TEXT, IM_END)],
        model_max_length=32768,
        chat_template=CHAT_TEMPLATE.replace(SYSTEM_BY_DEFAULT, "") if stamps else CHAT_TEMPLATE,
    )
    return tokenizer


def _training_text() -> list[str]:
    prompts = load_prompts()
    text = [prompts.system, *prompts.train_questions, prompts.eval_question, "system\nuser\nassistant\n"]
    for color in world.COLORS:
        for shape in world.SHAPES:
            for direction in world.DIRECTIONS:
                event = world.SceneEvent(color, shape, direction, new_color=color, wordy=True).words()
                text.append(f"{world.OPENING} {event}, {event} and {event}.")
    return text
