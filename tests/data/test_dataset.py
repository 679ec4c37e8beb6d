"""Training samples from annotated clips: stateless draws, questions, labels, replacements and the cache."""

import json
import pickle
import subprocess
import sys
from dataclasses import fields

import pytest
import torch

from swwatch.data.dataset import MAX_REPLACEMENTS, Draw, EpochOrder, missing_videos
from swwatch.data.prompt import IGNORED, Prompts, ask_ids
from swwatch.data.records import Records
from swwatch.engine.requests import drive
from swwatch.engine.source import Ask
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.layout import Kind
from swwatch.rules.variants import VARIANTS
from tests.helpers.small_clips import clip_dataset, make_clips, write_video
from tests.helpers.streams import Paced, Stream, ToldSession

PROMPTS = Prompts("Be brief.", ("What happens?", "Describe the video.", "What is seen?"), "unused")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), 6).parent


@pytest.fixture
def make(folder, load_tiny):
    """make(variant, folder=..., **options) -> ClipDataset."""
    place = folder

    def build(variant="group", folder=place, schedule=None, **options):
        return clip_dataset(load_tiny(variant), folder / "train.jsonl", variant, schedule, prompts=PROMPTS, **options)

    return build


def same(a: Draw, b: Draw) -> bool:
    x, y = a.sample, b.sample
    tensors = [(getattr(x.tokens, f.name), getattr(y.tokens, f.name)) for f in fields(x.tokens)]
    tensors += [(getattr(x, n), getattr(y, n)) for n in ("input_ids", "labels", "pixel_values", "video_grid_thw")]
    return a.skips == b.skips and all(torch.equal(p, q) for p, q in tensors)


def test_an_item_depends_on_epoch_and_index_alone(make):
    ours, theirs = make(schedule=RandomK(3, 1)), make(schedule=RandomK(3, 1), cache_gb=1)
    forward = [ours[epoch, i] for epoch in (0, 1) for i in range(6)]
    backward = [theirs[epoch, i] for epoch in (1, 0) for i in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))


def test_questions_are_the_training_ones_and_change_with_clip_epoch_and_seed(make):
    def asked(seed):
        dataset = make(seed=seed)
        prompts = [dataset[epoch, i].sample for epoch in range(4) for i in range(6)]
        texts = [dataset.tokenizer.decode(s.input_ids[s.tokens.where(Kind.PROMPT)]) for s in prompts]
        return [text.split("user\n")[1].removesuffix("<|vision_start|>") for text in texts]

    questions = asked(0)
    assert set(questions) == set(PROMPTS.train_questions)
    assert questions[:6] != questions[6:12] and questions != asked(1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_labels_are_the_caption_and_im_end_and_nothing_else(make, variant):
    dataset = make(variant)
    sample = dataset[0, 2].sample
    labels = sample.labels[sample.labels != IGNORED]
    im_end = dataset.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert dataset.tokenizer.decode(labels[:-1]) == dataset.records[2]["human_caption"] and labels[-1] == im_end
    assert torch.equal(sample.labels != IGNORED, sample.tokens.where(Kind.ANSWER))


def test_a_sample_has_one_step_a_second_and_as_many_video_tokens_as_its_grid(make):
    dataset = make()
    for i in range(6):
        sample = dataset[0, i].sample
        steps, rows, columns = sample.video_grid_thw[0].tolist()
        assert steps == 2 + i % 3 == int(sample.tokens.step.max()) + 1
        assert int(sample.tokens.where(Kind.VIDEO).sum()) == steps * rows * columns // 4
        assert len(sample.pixel_values) == steps * rows * columns and sample.pixel_values.dtype == torch.float32


QUESTIONS = [
    [1.2, 1.5, "Which colour?", "red"],
    [4, 4, "Which way?", "left"],
]  # in steps 1 and 3, of which no more follow


@pytest.mark.parametrize("variant", ["group", "gap", "overlap"])
def test_a_narration_that_is_asked_in_mid_stream_is_trained_as_it_streams(make, load_tiny, variant):
    dataset, loaded = make(variant, schedule=WaitK(12)), load_tiny(variant)
    record = dataset.records[2] | {"human_caption": "Here.", "question": "Watch.", "qa_stream": QUESTIONS}
    sample = dataset.build(record, 0)
    with torch.no_grad():
        logits = loaded.model(
            input_ids=sample.input_ids[None],
            position_ids=sample.tokens.position_ids[:, None],
            attention_mask=sample.tokens.visible()[None, None],
            pixel_values_videos=sample.pixel_values,
            video_grid_thw=sample.video_grid_thw,
        ).logits[0]
    grids = [torch.tensor([[1, *sample.video_grid_thw[0, 1:].tolist()]])] * 4
    answer = sample.labels[sample.labels != IGNORED].tolist()
    stream = Stream(dataset.prompt("Watch."), list(sample.pixel_values.chunk(4)), grids, answer)
    asks = {1: "Which colour?", 3: "Which way?"}
    orders = {step: [Ask(tuple(ask_ids(dataset.tokenizer, text, loaded.markup)), text)] for step, text in asks.items()}
    session = ToldSession(loaded.model, stream.prompt, schedule=WaitK(12), choose=Greedy(max_new_tokens=12))
    list(drive(loaded.model, session.tell(answer).run(Paced(stream, None, orders))))
    told = logits[:-1][sample.labels[1:] != IGNORED]
    torch.testing.assert_close(torch.stack(session.seen_logits), told, atol=1e-4, rtol=0)
    ((length, cut),) = dataset.counter()([record], [(8, 56, 56)])
    assert length == len(sample.input_ids) and not cut


@pytest.mark.parametrize(
    ("variant", "schedule", "rows", "reason"),
    [
        ("interleave", WaitK(12), QUESTIONS, "for overlap, group, gap with wait-k"),
        ("group", RandomK(3, 1), QUESTIONS, "with wait-k, not group random:3"),
        ("group", WaitK(12), [[5, 5, "When?", "now"]], "at 5 s comes after the video, which has 4 s"),
        ("group", WaitK(1), QUESTIONS, "what was said before is not over"),
        ("group", WaitK(12), [["soon", "When?"]], "qa_stream, row 0"),
    ],
)
def test_questions_that_cannot_be_asked_in_mid_stream_are_told(make, variant, schedule, rows, reason):
    dataset = make(variant, schedule=schedule)
    with pytest.raises(UserError, match=reason):
        dataset.build(dataset.records[2] | {"qa_stream": rows}, 0)


def test_an_unreadable_video_is_replaced_the_same_way_each_time_and_told(make, tmp_path):
    make_clips(tmp_path, 6, bad=(1, 4))
    (tmp_path / "videos" / "4.mp4").unlink()
    dataset, again = make(folder=tmp_path), make(folder=tmp_path)
    draw = dataset[0, 1]
    assert same(draw, again[0, 1]) and draw.sample is not None
    assert draw.skips[0].video_id == "1" and draw.skips[0].path.endswith("1.mp4") and "empty" in draw.skips[0].reason
    assert "4.mp4" in dataset[0, 4].skips[0].path + dataset[0, 4].skips[0].reason
    assert dataset[0, 0].skips == ()
    chosen = {str(dataset[epoch, 1].sample.input_ids.tolist()) for epoch in range(12)}
    assert len(chosen) > 3, "the replacement should differ by epoch"


def test_a_sample_longer_than_the_limit_is_skipped_and_never_cut(make):
    lengths = [len(make()[0, i].sample.tokens) for i in range(6)]
    limit = min(lengths)
    dataset = make(max_length=limit)
    for i in range(6):
        draw = dataset[0, i]
        assert draw.sample is None or len(draw.sample.tokens) <= limit
        assert bool(draw.skips) == (lengths[i] > limit)
        assert all(f"more than max_length {limit}" in skip.reason for skip in draw.skips)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cut_by_flag_a_sample_is_that_of_the_first_seconds_with_its_whole_answer(make, variant):
    whole = make(variant)[0, 2].sample  # four seconds
    rows = whole.video_grid_thw[0, 1:].prod()
    limit = len(whole.tokens) - int(rows) // 4 - 1  # one second less is one token too long
    dataset = make(variant, max_length=limit, truncate=True)
    draw = dataset[0, 2]
    cut = draw.sample
    assert not draw.skips and cut.num_cut == 2 and whole.num_cut == 0
    assert len(cut.tokens) == len(whole.tokens) - 2 * int(rows) // 4 <= limit
    assert cut.video_grid_thw.tolist() == [[2, *whole.video_grid_thw[0, 1:].tolist()]]
    assert torch.equal(cut.pixel_values, whole.pixel_values[: 2 * rows])
    assert torch.equal(cut.labels[cut.labels != IGNORED], whole.labels[whole.labels != IGNORED])
    assert int(cut.tokens.step[cut.tokens.where(Kind.VIDEO)].max()) == 1


def test_a_sample_that_is_too_long_without_its_video_is_skipped_all_the_same(make):
    draw = make(max_length=20, truncate=True)[0, 2]
    assert draw.sample is None and "with one second of its video, more than max_length 20" in draw.skips[0].reason


def test_a_line_that_is_no_record_is_a_skip_with_its_number(make, folder, tmp_path):
    lines = (folder / "train.jsonl").read_text().splitlines()
    (tmp_path / "videos").symlink_to(folder / "videos")
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[:2], '{"video_id": 2', *lines[3:]]))
    dataset = make(folder=folder)
    dataset.records, dataset.data = Records(tmp_path / "train.jsonl"), tmp_path / "train.jsonl"
    draw = dataset[0, 2]
    assert draw.sample is not None and "train.jsonl, line 3: not valid JSON" in draw.skips[0].reason
    assert same(draw, dataset[0, 2]) and not dataset[0, 3].skips


def test_an_unforeseen_error_in_a_worker_names_the_clip(make, monkeypatch):
    monkeypatch.setattr("swwatch.data.dataset.iter_steps", lambda path, **k: 1 / 0)
    loader = torch.utils.data.DataLoader(make(), batch_size=None, sampler=[(0, 4)], num_workers=1)
    with pytest.raises(ZeroDivisionError, match="video_id 4, videos/4.mp4"):
        list(loader)


MEMORY = """
import sys
import psutil
from swwatch.data.video import read_clip

process, path = psutil.Process(), sys.argv[1]
for _ in range(5):  # and what a first call loads
    num_bytes = read_clip(path).frames.nbytes
before, threads, rounds = process.memory_info().rss, process.num_threads(), 15
for _ in range(rounds):
    read_clip(path)
print((process.memory_info().rss - before) / (rounds * num_bytes), (process.num_threads() - threads) / rounds)
"""


def test_decoding_again_and_again_leaves_no_memory_behind(tmp_path):
    write_video(tmp_path / "a.mp4", 2, seed=1, size=(420, 560))
    # in a process of its own: one that has run a thousand tests grows by what its allocator leaves free in between
    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "a.mp4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    clips, threads = map(float, done.stdout.split())  # left behind by each call
    assert clips < 0.5 and threads < 1


def test_records_of_one_video_share_its_frames(make, folder, monkeypatch):
    dataset = make(cache_gb=1)
    dataset.records = [record | {"video_path": "videos/1.mp4"} for record in dataset.records]
    dataset[0, 0]
    monkeypatch.setattr("swwatch.data.dataset.iter_steps", lambda *a, **k: pytest.fail("decoded again"))
    dataset[0, 1]


def test_a_clip_longer_than_max_frames_is_skipped(make):
    draw = make(max_frames=4)[0, 2]
    assert "4 s" in draw.skips[0].reason or "8 frames" in draw.skips[0].reason


def test_it_gives_up_where_nothing_is_readable(make, tmp_path):
    make_clips(tmp_path, 3, bad=(0, 1, 2))
    draw = make(folder=tmp_path)[0, 0]
    assert draw.sample is None and len(draw.skips) == MAX_REPLACEMENTS


def test_the_cache_is_bounded_and_spares_decoding(make, monkeypatch):
    dataset = make(cache_gb=1)
    size = dataset[0, 0].sample.pixel_values.nbytes + dataset[0, 1].sample.pixel_values.nbytes
    assert dataset.cache.num_bytes == size
    small = make(cache_gb=(size + 1) / 1e9)
    for i in range(6):
        small[0, i]
    assert small.cache.num_bytes <= size + 1 and 1 <= len(small.cache.clips) < 6
    monkeypatch.setattr("swwatch.data.dataset.iter_steps", lambda *a, **k: pytest.fail("decoded again"))
    assert same(dataset[1, 0], dataset[1, 0])


def test_the_cache_is_off_by_default(make):
    dataset = make()
    dataset[0, 0]
    assert dataset.cache.num_bytes == 0


def test_workers_give_the_same_items_as_the_process_itself(make):
    dataset = make(cache_gb=0.1)
    order = EpochOrder(6, seed=3)
    options = {"batch_size": None, "sampler": order}
    alone = list(torch.utils.data.DataLoader(dataset, **options))
    helped = list(torch.utils.data.DataLoader(dataset, num_workers=2, **options))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_skips_survive_the_way_from_a_worker(make, tmp_path):
    make_clips(tmp_path, 3, bad=(0,))
    draw = make(folder=tmp_path)[0, 0]
    assert pickle.loads(pickle.dumps(draw)).skips == draw.skips


def test_the_order_visits_all_once_an_epoch_and_depends_on_seed_and_epoch():
    order = EpochOrder(50, seed=1)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert {e for e, _ in first} == {0} and {e for e, _ in second} == {1}
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(50))
    assert [i for _, i in first] != [i for _, i in second] != list(range(50))
    order.set_epoch(0)
    assert list(order) == first == list(EpochOrder(50, seed=1)) != list(EpochOrder(50, seed=2))


def test_missing_videos_are_found_without_reading_any(tmp_path):
    records = [{"video_id": i, "video_path": f"{i}.mp4"} for i in range(40)]
    for i in range(0, 40, 4):
        (tmp_path / f"{i}.mp4").write_bytes(b"not a video")
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in records))
    looked_for, missing = missing_videos(records, data)
    assert (looked_for, len(missing)) == (40, 30) and missing[0].video_id == "1"
    assert missing_videos(records, data, limit=10)[0] == 10
