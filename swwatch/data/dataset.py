"""Annotated clips as training samples, laid out for a variant."""

import random
import re
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch.utils.data import Sampler, get_worker_info

from swwatch.data.annotations import resolve_video
from swwatch.data.frame_cache import FrameCache
from swwatch.data.pixels import FrameEncoder, merged_grids
from swwatch.data.prompt import Markup, Prompts, answer_ids, ask_ids, fill, prompt_ids, question_of
from swwatch.data.samples import MAX_REPLACEMENTS, Draw, Sample, Samples, Size, Skip, too_many
from swwatch.data.timed import captions_of, decisions_of, plan_of, plan_of_asked
from swwatch.data.token_counts import TokenCounter, backend_of
from swwatch.data.turns.conversation import TimedQuestion, asked_of
from swwatch.data.video import FRAMES_PER_STEP, READERS, iter_steps, measure
from swwatch.errors import UserError
from swwatch.policies.see import ALL, See
from swwatch.policies.see.seen import see_video
from swwatch.policies.speak import Speak, WaitK
from swwatch.policies.think import OFF, Think
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Layout
from swwatch.rules.schedule import FPS, Planned, seconds_of_step
from swwatch.rules.variants import Speaks, speaking

__all__ = ["MAX_REPLACEMENTS", "Draw", "Sample", "Skip"]  # of data.samples


class EncodedClips:
    """Encoded clips kept in memory up to a bound, so that a small set is decoded once.

    Nothing is evicted: every clip is read once an epoch, and then the first ones kept are as good as any. Each
    loader worker has a cache of its own, with an equal share of the bound, filled by the clips it happens to read.
    """

    def __init__(self, gigabytes: float):
        self.max_bytes = gigabytes * 1e9
        self.num_bytes = 0
        self.clips: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def get(self, key: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self.clips.get(key)

    def put(self, key: str, clip: tuple[torch.Tensor, torch.Tensor]) -> None:
        worker = get_worker_info()
        size = clip[0].nbytes
        if self.num_bytes + size <= self.max_bytes / (worker.num_workers if worker else 1):
            self.clips[key] = clip
            self.num_bytes += size


class ClipDataset(Samples):
    """The samples of annotation records.

    A record whose video cannot be read, or whose sample is longer than `max_length`, gives none. An answer is never
    cut.

    Args:
        records: a Records, or from annotations.read_jsonl; data: their file, which their paths are relative to.
        tokenizer, markup: of the checkpoint.
        encoder: frames -> pixel values.
        variant, schedule: how samples are laid out; see: which of their video tokens they hold; think: what is thought
            in them, of the records' `thoughts`.
        thought_dropout: the share of samples, drawn anew in each epoch, that are without thoughts.
        carriers: where each patch gets a carrier, which the model adds to a sample (model.late): patches at most.
        merge: spatial_merge_size; fps: frames a second; t_per_step: temporal positions per step.
        prompts: system text, and the questions for records without one of their own.
        max_length: tokens, those included that `see` drops; max_frames: frames; reader: of READERS.
        truncate: a sample longer than max_length loses the last steps of its video, as many as it takes.
        seed: of questions and replacements.
        cache_gb: see EncodedClips; 0 keeps nothing. frame_cache: of decoded frames on disk.
        video_root: a folder that holds all videos side by side, instead of the records' paths.
    Raises:
        UserError: a question holds chat markup.
    """

    def __init__(
        self,
        records: Sequence[dict],
        data: str | Path,
        *,
        tokenizer,
        markup: Markup,
        encoder: FrameEncoder,
        variant: str,
        schedule: Speak,
        merge: int,
        t_per_step: float,
        prompts: Prompts,
        see: See = ALL,
        think: Think | None = None,
        thought_dropout: float = 0.0,
        carriers: int | None = None,
        fps: float = FPS,
        max_length: int = 8192,
        max_frames: int = 60,
        reader: str = READERS[0],
        truncate: bool = False,
        seed: int = 0,
        cache_gb: float = 0.0,
        frame_cache: FrameCache | None = None,
        video_root: str | Path | None = None,
    ):
        super().__init__(records, data, seed)
        self.tokenizer, self.markup, self.encoder = tokenizer, markup, encoder
        self.variant, self.schedule, self.merge, self.t_per_step = variant, schedule, merge, t_per_step
        self.prompts, self.see, self.video_root = prompts, see, video_root
        self.think, self.thought_dropout, self.carriers = think or OFF, thought_dropout, carriers
        self.prompt_ids = {
            text: prompt_ids(tokenizer, prompts.system, text, markup) for text in prompts.train_questions
        }
        self.max_length, self.max_frames, self.truncate = max_length, max_frames, truncate
        self.reader, self.fps = reader, fps
        self.cache, self.frame_cache = EncodedClips(cache_gb), frame_cache

    def build(self, record: dict, epoch: int) -> Sample:
        """The sample of a record in an epoch, which chooses the question of a record that has none of its own.

        Raises:
            UserError: the video cannot be read, the sample is longer than max_length, or a text holds chat markup.
        """
        video_id = str(record["video_id"])
        pixel_values, grid_thw = self.clip(record)
        drawn = random.Random(f"question/{self.seed}/{epoch}/{video_id}").choice(self.prompts.train_questions)
        prompt = self.prompt(question_of(record, drawn))
        captions = self.captions(record)
        answers = [answer_ids(self.tokenizer, text, self.markup) for _, text in captions]
        rows = self.questions_in(record)
        questions = [ask_ids(self.tokenizer, one.question, self.markup) for one in rows]
        grids = tuple(merged_grids(grid_thw, self.merge))
        sizes = len(self.markup.suffix), len(self.markup.header), self.t_per_step, seconds_of_step(self.fps)
        num_text = len(prompt) + sizes[0] + sum(sizes[1] + len(answer) for answer in answers)
        num_text += sum(map(len, questions)) + self.num_thought(len(grids))
        num_kept = self.steps_kept(num_text, len(grids), grids[0][0] * grids[0][1])
        if num_cut := len(grids) - num_kept:  # patches are in the order of time, and each step's are its own
            grids, pixel_values = grids[:num_kept], pixel_values[: len(pixel_values) // len(grids) * num_kept].clone()
            grid_thw = grid_thw - torch.tensor([[num_cut, 0, 0]])
        patches = tuple(self.markup.announced(see_video(self.see, pixel_values, grids)))
        schedule, starts, steps = self.schedule.for_clip(video_id), None, ()
        times, lengths = [at_s for at_s, _ in captions], [len(answer) for answer in answers]
        if self.schedule.learned:
            schedule = plan_of(times, lengths, len(grids), sizes[-1], self.schedule.k)
            starts, answers = schedule.starts, answers[: len(schedule.starts)]
        elif rows:
            schedule, steps = plan_of_asked(times[1:], lengths, len(grids), sizes[-1], self.schedule.k)
            starts = schedule.starts
        answer = [token for ids in answers for token in ids]
        thoughts, thought = self.thoughts(record, epoch, len(grids))
        places = tuple(zip(steps, map(len, questions), strict=True))
        how = self.variant, len(prompt), patches, len(answer), schedule, places, *sizes, starts, thoughts
        how += (len(self.markup.note),)
        early = self.see.drops and not self.see.decides_late  # then what is dropped differs from clip to clip
        tokens = (_layout if early else _shared_layout)(*how)
        dropped_early = patches if early else ()
        decisions = decisions_of(tokens, schedule, self.schedule.balanced) if self.schedule.learned else None
        filled = fill(tokens, self.markup, sum(questions, prompt), answer, thought)
        return Sample(*filled, tokens, pixel_values, grid_thw, num_cut, dropped_early, decisions)

    def captions(self, record: dict) -> list[tuple[float, str]]:
        """(seconds, text) of what is said of a record's video: its caption, from the beginning on, and its answers, or
        where the SPEAK policy is learned its captions with their times.

        Raises:
            UserError: it has none of these.
        """
        if self.schedule.learned:
            return captions_of(record)
        return [(0.0, record["human_caption"]), *((one.time_s, one.answer) for one in self.questions_in(record))]

    def questions_in(self, record: dict) -> tuple[TimedQuestion, ...]:
        """What is asked in mid-stream.

        Raises:
            UserError: the record's `qa_stream` holds no such rows, or what is trained cannot be asked so.
        """
        rows, able = asked_of(record), speaking(Speaks.PARALLEL)
        if rows and not (self.variant in able and isinstance(self.schedule, WaitK)):
            raise UserError(f"a qa_stream is for {', '.join(able)} with wait-k, not {self.variant} {self.schedule}")
        return rows

    def thoughts(self, record: dict, epoch: int, num_steps: int) -> tuple[Planned | None, list[int]]:
        """What is thought in a sample, as a stream would do it, and its ids; none where a draw says so.

        Raises:
            UserError: the record has no thoughts with their times, or one holds chat markup.
        """
        if self.think == OFF:
            return None, []
        found = captions_of(record, "thoughts", "train with think off; [] is of a video about which nothing comes up")
        if random.Random(f"thoughts/{self.seed}/{epoch}/{record['video_id']}").random() < self.thought_dropout:
            return None, []
        encode = partial(answer_ids, self.tokenizer, markup=self.markup)
        return self.think.write(found, encode, num_steps, seconds_of_step(self.fps))

    def num_thought(self, num_steps: int) -> int:
        """Tokens of thoughts in a sample of so many steps, with what begins them, at most."""
        if self.think == OFF:
            return 0
        notes, tokens = self.think.most(num_steps, seconds_of_step(self.fps))
        return notes * len(self.markup.note) + tokens

    def steps_kept(self, num_text: int, num_steps: int, per_step: int) -> int:
        """How many of a sample's steps are used: all, or with `truncate` as many as fit.

        Args:
            num_text: tokens of all but the video; per_step: video tokens of a step.
        Raises:
            UserError: it is longer than max_length, or has more steps than there are carriers.
        """
        if self.carriers is not None and num_steps > self.carriers:
            raise UserError(too_many("steps", self.carriers))
        length = num_text + self.num_watched(num_steps, per_step)
        if length <= self.max_length:
            return num_steps
        left, count = length, num_steps
        while left > self.max_length and count:
            count -= 1
            left -= per_step + (self.carriers is not None) + len(self.markup.around([count]))
        if self.truncate and count > 0:
            return count
        one = num_text + self.num_watched(1, per_step)
        shortest = f" and {one} with one second of its video" if self.truncate else ""
        raise UserError(f"the sample has {length} tokens{shortest}, more than max_length {self.max_length}")

    def num_watched(self, steps: int, per_step: int) -> int:
        """Tokens of the first steps of a video, with their carriers and what is around their patches."""
        return steps * (per_step + (self.carriers is not None)) + len(self.markup.around(range(steps)))

    def measure(self, record: dict) -> Size:
        """As Samples.measure."""
        path = resolve_video(record.get("video_path"), self.data, self.video_root)
        return measure(path, **self._how)

    def counter(self) -> "_Counter":
        """As Samples.counter."""
        return _Counter(self)

    def prompt(self, question: str) -> list[int]:
        ids = self.prompt_ids.get(question)
        return prompt_ids(self.tokenizer, self.prompts.system, question, self.markup) if ids is None else ids

    def clip(self, record: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """(pixel_values (patches, D), video_grid_thw (1, 3)) of a record's video, from a cache where it is there."""
        key = str(record.get("video_path"))  # several records may share a video
        clip = self.cache.get(key)
        if clip is None:
            path = resolve_video(record.get("video_path"), self.data, self.video_root)
            cached = self.frame_cache is not None
            frames = self.frame_cache.get(path, lambda: self._frames(path)) if cached else self._frames(path)
            clip = self.encoder.patches(frames)
            self.cache.put(key, clip)
        return clip

    def _frames(self, path: Path) -> torch.Tensor:
        return self.encoder.resize_steps(iter_steps(path, **self._how))

    @property
    def _how(self) -> dict:
        return {"max_frames": self.max_frames, "reader": self.reader, "fps": self.fps}


class _Counter:
    """Counts the tokens of many samples at once, because that is a hundred times as fast; see Samples.counter."""

    def __init__(self, clips: ClipDataset):
        self.clips, self.count = clips, TokenCounter(backend_of(clips.tokenizer))
        self.fixed = len(clips.markup.header) + 1  # of an answer, with <|im_end|>
        self.markup = re.compile("|".join(map(re.escape, clips.tokenizer.get_added_vocab())) or "(?!)")
        self.prompt = max(map(len, clips.prompt_ids.values()), default=0)

    def __call__(self, records: Sequence[dict], sizes: Sequence[Size | str]) -> list[tuple[int, bool] | str]:
        texts = [self._texts(record) for record in records]
        counts = iter(self.count([text.strip() for some in texts if not isinstance(some, str) for text in some]))
        answers = [some if isinstance(some, str) else sum(next(counts) + self.fixed for _ in some) for some in texts]
        return [self._one(*of) for of in zip(records, answers, sizes, strict=True)]

    def _texts(self, record: dict) -> list[str] | str:
        """What is said, or why nothing is."""
        try:
            return [text for _, text in self.clips.captions(record)]
        except UserError as error:
            return str(error)

    def _one(self, record: dict, answer: int | str, size: Size | str) -> tuple[int, bool] | str:
        if isinstance(size, str) or isinstance(answer, str):
            return size if isinstance(size, str) else answer
        num_frames, height, width = size
        steps = num_frames // FRAMES_PER_STEP
        try:
            per_step = self.clips.encoder.tokens_per_step(height, width, num_frames)
            text = self._text(record, answer) + self.clips.num_thought(steps)
            num_kept = self.clips.steps_kept(text, steps, per_step)
        except UserError as error:
            return str(error)
        return text + self.clips.num_watched(num_kept, per_step), num_kept < steps

    def _text(self, record: dict, answer: int) -> int:
        """Tokens of all but the video."""
        for _, caption in self.clips.captions(record):
            if self.markup.search(caption):
                answer_ids(self.clips.tokenizer, caption, self.clips.markup)  # which refuses it
        own, clips = question_of(record, ""), self.clips
        num_asked = sum(
            len(ask_ids(clips.tokenizer, one.question, clips.markup)) for one in clips.questions_in(record)
        )
        return answer + num_asked + len(clips.markup.suffix) + (len(clips.prompt(own)) if own else self.prompt)


def missing_videos(
    records: Sequence[dict], data: Path, video_root: Path | None = None, limit: int = 1000
) -> tuple[int, list[Skip]]:
    """Look for the video files of up to about `limit` records, spread evenly: a cheap check before a run.

    Args:
        data: their annotation file, for records that do not name their own.
    Returns:
        How many were looked for, and those that are missing.
    """
    chosen = spread(len(records), limit)
    missing = []
    for index in chosen:
        try:
            record = records[index]
        except UserError:
            continue  # Records.check counts lines that are no records
        try:
            resolve_video(record.get("video_path"), record.get("file", data), video_root)
        except UserError as error:
            missing.append(Skip.of(record, error))
    return len(chosen), missing


def spread(length: int, limit: int) -> range:
    """Up to about `limit` of the indices below `length`, at equal distances; at most twice as many."""
    return range(0, length, max(1, length // limit))


class EpochOrder(Sampler):
    """Yields (epoch, index) over all indices, in an order drawn by (seed, epoch)."""

    def __init__(self, length: int, seed: int):
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader of transformers and accelerate at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = array("q", range(self.length))  # 8 bytes an index
        random.Random(f"order/{self.seed}/{epoch}").shuffle(order)
        return ((epoch, index) for index in order)


def _layout(variant, prompt_len, patches, answer_len, schedule, questions, *more) -> Layout:
    """`layout` with arguments that can be remembered."""
    names = ("suffix_len", "header_len", "t_per_step", "step_s", "starts", "thoughts", "note_len")
    sizes = dict(zip(names, more, strict=True)) | {"questions": dict(questions)}
    return layout(variant, prompt_len, patches, answer_len, schedule=schedule, **sizes)


# clips of equal length and size share theirs, whose tensors must not be written to
_shared_layout = lru_cache(maxsize=4096)(_layout)
