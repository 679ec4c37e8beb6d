"""The samples of a benchmark, and how a row puts them into forwards."""

import random
from pathlib import Path

import torch

from swwatch.bench.inputs import PROMPT_LEN, most_square, random_video
from swwatch.bench.train.settings import TrainBenchSettings, TrainRow
from swwatch.data.annotations import read_jsonl
from swwatch.data.budget import BUDGETS
from swwatch.data.collator import Collator
from swwatch.data.dataset import Sample
from swwatch.data.packing import PackPlan
from swwatch.data.pixels import FrameEncoder
from swwatch.data.prompt import Markup, fill
from swwatch.errors import UserError
from swwatch.model.loading import Loaded
from swwatch.rules.cursor import layout
from swwatch.rules.families import t_step
from swwatch.rules.patch import Patch
from swwatch.rules.schedule import seconds_of_step

WORDS_PER_STEP = 4  # answer tokens: of a second at 2 frames a second PE-Video's captions have 3 to 5
PACK_TOKENS, SAMPLES_A_PACK = 8192, 16  # where `pack_tokens` is not given


def clip_samples(data: Path, loaded: Loaded, count: int, seed: int) -> list[Sample]:
    """The samples of the first `count` usable records of an annotation file, decoded as training does.

    Raises:
        UserError: there are fewer.
    """
    encoder = FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget])
    clips = loaded.clips(read_jsonl(data), data, encoder=encoder, seed=seed)
    samples, problem = [], ""
    for record in clips.records:
        if len(samples) == count:
            break
        try:
            samples.append(clips.build(record, epoch=0))
        except UserError as error:
            problem = f"; the last problem: {error}"
    if len(samples) < count:
        raise UserError(f"{data} gives {len(samples)} samples of {count}: lower --samples{problem}")
    return samples


class MadeUp:
    """Samples of random pixels and words in the form of the real ones.

    Args:
        config: of the model, annotated with variant and markup.
        tokens_per_step: video tokens of a step.
        seed: of pixels, words and durations.
    """

    def __init__(self, config, tokens_per_step: int, seed: int):
        saved = config.swwatch
        self.variant = saved["variant"]
        self.markup, self.step_s = Markup.read(saved["markup"]), seconds_of_step(saved["fps"])
        self.t_per_step = t_step(config, self.step_s)
        self.vision, self.grid = config.vision_config, most_square(tokens_per_step)
        self.vocabulary = config.text_config.vocab_size
        self.drawn, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def of_seconds(self, shortest: int, longest: int, count: int) -> list[Sample]:
        """Durations drawn evenly, in whole seconds."""

        def steps() -> int:
            return max(1, round(self.drawn.randint(shortest, longest) / self.step_s))

        return [self.sample(steps(), PROMPT_LEN) for _ in range(count)]

    def of_length(self, length: int) -> Sample:
        """One sample of exactly so many tokens, as long a video as fits.

        Raises:
            UserError: no step of video fits.
        """
        fixed = PROMPT_LEN + len(self.markup.suffix) + len(self.markup.header) + 1
        per_step = self.grid[0] * self.grid[1] + len(self.markup.around([0])) + WORDS_PER_STEP
        steps = (length - fixed) // per_step
        if steps < 1:
            raise UserError(f"{length} tokens are too few for a step of video, which takes {per_step + fixed}")
        return self.sample(steps, PROMPT_LEN + (length - fixed) % per_step)

    def sample(self, steps: int, prompt_len: int) -> Sample:
        """A sample of so many steps."""
        markup, answer_len = self.markup, WORDS_PER_STEP * steps + 1
        sizes = {"suffix_len": len(markup.suffix), "header_len": len(markup.header)}
        tokens = layout(
            self.variant,
            prompt_len,
            self.markup.announced([Patch(*self.grid)] * steps),
            answer_len,
            t_per_step=self.t_per_step,
            step_s=self.step_s,
            **sizes,
        )
        words = [word for word in range(20, min(200, self.vocabulary)) if word != markup.video]
        prompt = self.drawn.choices(words, k=prompt_len - 1) + [markup.vision_start]
        answer = self.drawn.choices(words, k=answer_len - 1) + [markup.im_end]
        pixels, grid_thw = random_video(self.vision, steps, self.grid, self.generator)
        return Sample(*fill(tokens, markup, prompt, answer), tokens, pixels, grid_thw)


def forwards(samples: list[Sample], row: TrainRow, settings: TrainBenchSettings, collator: Collator) -> list[dict]:
    """The model's inputs of all forwards of a step: every sample is in one of them.

    Raises:
        UserError: a sample is longer than a pack.
    """
    if row.rows == "one":
        return [collator.batch([sample]) for sample in samples]
    lengths = [len(sample.tokens) for sample in samples]
    if row.rows == "packed":
        plan = PackPlan(lengths, settings.pack_tokens or pack_tokens(lengths), settings.seed)
        return [collator.rows([[samples[i] for i in pack]]) for pack in plan.epoch(0)]
    # as training does with group_by_length: neighbours in length share a batch
    order = sorted(range(len(samples)), key=lengths.__getitem__)
    size = settings.batch_size
    return [collator.batch([samples[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]


def pack_tokens(lengths: list[int]) -> int:
    return max(max(lengths), min(SAMPLES_A_PACK * max(lengths), PACK_TOKENS))


def visible_pairs(sample: Sample, chunk: int = 512) -> int:
    """Pairs of a query and a key that it may attend to, counted a chunk of queries at a time."""
    tokens = sample.tokens
    parts = (tokens[at : at + chunk].visible(tokens) for at in range(0, len(tokens), chunk))
    return sum(int(part.sum()) for part in parts)
