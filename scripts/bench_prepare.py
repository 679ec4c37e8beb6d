"""Records per second of the caption filter: token counts in batches, against one record at a time.

    python scripts/bench_prepare.py [--records 50000] [--tokenizer-model-id FOLDER_OR_ID]

Both sides start from the same JSON texts in memory, apply the same filter and have to keep the same records. Without
--tokenizer-model-id a byte-level BPE of Qwen's form is trained on made-up captions, so no download is needed.
Prints a table for people and, as the last line, one JSON object for programs.
"""

import argparse
import itertools
import json
import random
import sys
import time
from pathlib import Path

from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from swwatch.data.prepare import pe_video_rules as pe_video  # noqa: E402
from swwatch.data.prepare.sources import FILES_PER_PART  # noqa: E402
from swwatch.data.token_counts import TokenCounter, backend_of  # noqa: E402

NUM_WORDS = 20_000  # different words; the n-th most frequent comes up as 1/n, as in any language
SYLLABLES = [consonant + vowel for consonant in "bdfghklmnprstvw" for vowel in ("a", "e", "i", "o", "u", "ing", "er")]


def synthetic_records(number: int, seed: int = 0) -> list[bytes]:
    """JSON texts of made-up records; about as many pass, and fail for as many reasons, as in PE-Video."""
    rng = random.Random(seed)
    words = ["".join(random.Random(n).choices(SYLLABLES, k=1 + n % 3)) for n in range(NUM_WORDS)]
    frequencies = list(itertools.accumulate(1 / n for n in range(1, NUM_WORDS + 1)))
    texts = []
    for video_id in range(number):
        duration = rng.uniform(3, 35)
        said = rng.choices(words, cum_weights=frequencies, k=max(1, round(duration * rng.uniform(2, 5))))
        start = "The video shows" if rng.random() < 0.9 else "A short clip of"
        caption = f"{start} {' '.join(said)}." if rng.random() < 0.95 else None
        record = {"video_id": video_id, "human_caption": caption, "video_duration_in_s": round(duration, 6)}
        texts.append(json.dumps(record).encode())
    return texts


def small_bpe():
    """A byte-level BPE trained on the made-up captions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    captions = (json.loads(text)["human_caption"] or "" for text in synthetic_records(5000, seed=1))
    tokenizer.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=8000, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def one_at_a_time(texts: list[bytes], tokenizer) -> list[int]:
    """The plain loop: each record is parsed, its caption tokenized, and the filter asked."""
    kept = []
    for text in texts:
        record = json.loads(text)
        if pe_video.check_text(record) is None:
            num_tokens = len(tokenizer(pe_video.caption_of(record), add_special_tokens=False)["input_ids"])
            if pe_video.check_record(record, num_tokens) is None:
                kept.append(record["video_id"])
    return kept


def batched(texts: list[bytes], tokenizer) -> list[int]:
    """As preparation does it: the cheap checks for a part's records, then one call for all captions left."""
    kept, count_tokens = [], TokenCounter(backend_of(tokenizer))  # made anew: no word is known beforehand
    for start in range(0, len(texts), FILES_PER_PART):
        records = map(json.loads, texts[start : start + FILES_PER_PART])
        left = [record for record in records if pe_video.check_text(record) is None]
        counts = count_tokens([pe_video.caption_of(record) for record in left])
        kept += [r["video_id"] for r, n in zip(left, counts, strict=True) if pe_video.check_record(r, n) is None]
    return kept


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000, help="number of made-up records (default: 50000)")
    parser.add_argument("--tokenizer-model-id", help="tokenizer to count with (default: a small BPE made here)")
    parser.add_argument("--min-speedup", type=float, default=3, help="exit code 1 below this (default: 3)")
    args = parser.parse_args(argv)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_model_id) if args.tokenizer_model_id else small_bpe()
    texts = synthetic_records(args.records)
    results, rates = {}, {}
    for name, way in {"one at a time": one_at_a_time, "batched": batched}.items():
        way(texts[:FILES_PER_PART], tokenizer)  # warm up
        start_s = time.perf_counter()
        results[name] = way(texts, tokenizer)
        rates[name] = len(texts) / (time.perf_counter() - start_s)
        print(f"{name:14} {rates[name]:10,.0f} records/s   {len(results[name])} of {len(texts)} kept")
    if results["one at a time"] != results["batched"]:
        raise AssertionError("the two ways keep different records")
    speedup = rates["batched"] / rates["one at a time"]
    print(f"{'speedup':14} {speedup:10.1f}")
    print(
        json.dumps({"records": len(texts), **{n.replace(" ", "_"): r for n, r in rates.items()}, "speedup": speedup})
    )
    return int(speedup < args.min_speedup)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
