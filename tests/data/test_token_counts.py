"""Token counts are those of the tokenizer itself, whatever way they were found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from swwatch.data.prepare.shared import load_counter
from swwatch.data.token_counts import QWEN_PATTERN, TokenCounter, backend_of
from swwatch.errors import UserError

CORPUS = [
    "the video shows a dog's tail, and 25 birds...",
    "The video shows it's a man; he'll walk!",
    "no\n\nnew  lines",
]
BYTES = pre_tokenizers.ByteLevel
SPLIT = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
FORMS = {
    "qwen": (normalizers.NFC(), pre_tokenizers.Sequence([SPLIT, BYTES(add_prefix_space=False, use_regex=False)])),
    "gpt2": (None, BYTES(add_prefix_space=False)),
}
OTHERS = {
    "prefix space": (None, BYTES(add_prefix_space=True)),
    "no split": (None, BYTES(add_prefix_space=False, use_regex=False)),
    "another normalizer": (normalizers.Strip(), BYTES(add_prefix_space=False)),
}


def bpe(normalizer, pre_tokenizer, **added) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = BYTES.alphabet()
    tokenizer.train_from_iterator(
        CORPUS * 5, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<seg>", **added)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_end|> $A", special_tokens=[("<|im_end|>", 340)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {name: bpe(*form) for name, form in (FORMS | OTHERS).items()}
COUNTERS = {name: TokenCounter(backend_of(tokenizer)) for name, tokenizer in TOKENIZERS.items()}

# everything a pattern treats in a way of its own, and whole words of the corpus
parts = st.sampled_from(
    [*" '.,;!-3", "  ", "\n", "\t", "\u00a0", "\u3000", "\u0301", "\u0345", "e\u0301", "\u1100", "\u1161", "\u2019s"]
    + ["'s", "'LL", "the", "video", "25", "Füchse", "\U0001f98a", "<|im_end|>", "<seg>", "\x1f", "\u200b"]
)
texts = st.lists(st.lists(parts | st.characters(codec="utf-8"), max_size=12).map("".join), max_size=4)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts=texts)
def test_counts_are_the_tokenizers_own(name, texts):
    wanted = [len(TOKENIZERS[name](text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert COUNTERS[name](texts) == wanted
    assert COUNTERS[name](texts) == wanted, "the same again, now that all words are known"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_are_summed_only_where_the_split_is_known(name):
    assert COUNTERS[name].is_additive == (name in FORMS)


@pytest.mark.parametrize("option", ["lstrip", "rstrip", "single_word"])
def test_added_tokens_that_look_beyond_a_word_forbid_summing(option):
    assert not TokenCounter(backend_of(bpe(*FORMS["qwen"], **{option: True}))).is_additive


def test_each_word_is_tokenized_once():
    counter, seen = TokenCounter(backend_of(TOKENIZERS["qwen"])), []
    whole = counter.count_whole
    counter.count_whole = lambda texts: seen.extend(texts) or whole(texts)
    counter(["the video shows the video", "a video"])
    counter(["the shows"])
    assert sorted(seen) == [" shows", " the", " video", "a", "the"]


@pytest.mark.parametrize("has_file", [True, False])
@given(texts=texts)
def test_a_folders_counts_are_those_of_its_tokenizer_in_transformers(folders, has_file, texts):
    """From tokenizer.json alone, or, where there is none, from what transformers makes of the other files."""
    count_tokens, tokenizer = folders[has_file]
    wanted = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert count_tokens(texts) == wanted


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Counter and tokenizer of Qwen's form with a tokenizer.json, and with vocabulary and merges alone."""
    made = {}
    for has_file in (True, False):
        folder = tmp_path_factory.mktemp("tokenizer")
        whole = TOKENIZERS["qwen"].backend_tokenizer
        whole.model.save(str(folder))
        if has_file:
            whole.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}', encoding="utf-8")
        made[has_file] = load_counter(str(folder)), AutoTokenizer.from_pretrained(folder)
    return made


def test_a_tokenizer_without_fast_form_is_refused():
    class Slow:
        name_or_path, is_fast = "some/slow", False

    with pytest.raises(UserError, match="some/slow has no fast"):
        backend_of(Slow())
