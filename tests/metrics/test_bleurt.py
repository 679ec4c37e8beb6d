"""BLEURT: a checkpoint in the public form is read whole or refused, and scored as a plain reading of it says."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from swwatch.errors import UserError
from swwatch.metrics.bleurt import EXAMPLE, Bleurt

WORDS = "[PAD] [UNK] [CLS] [SEP] a the red blue circle square moves left right up down and then".split()
CONFIG = {  # the fields of the public BLEURT-20-D12, small
    "architectures": ["BleurtForSequenceClassification"],
    "attention_probs_dropout_prob": 0,
    "embedding_dropout_prob": 0,
    "embedding_size": 6,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0,
    "hidden_size": 8,
    "id2label": {"0": "LABEL_0"},
    "intermediate_size": 10,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 20,
    "model_type": "bleurt",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "output_embedding_size": 7,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": len(WORDS) + 3,
}


def shapes():
    width, narrow, wide = CONFIG["hidden_size"], CONFIG["embedding_size"], CONFIG["intermediate_size"]
    linear = {"encoder.embedding_projection": (width, narrow), "pooler.dense": (width, width)}
    norms = {"embeddings.LayerNorm": narrow}
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        linear |= {f"{layer}.attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linear |= {f"{layer}.attention.output.dense": (width, width), f"{layer}.intermediate.dense": (wide, width)}
        linear |= {f"{layer}.output.dense": (width, wide)}
        norms |= {f"{layer}.attention.output.LayerNorm": width, f"{layer}.output.LayerNorm": width}
    found = {
        "embeddings.word_embeddings.weight": (CONFIG["vocab_size"], narrow),
        "embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], narrow),
        "embeddings.token_type_embeddings.weight": (CONFIG["type_vocab_size"], narrow),
    }
    for name, shape in linear.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, size in norms.items():
        found |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return {f"bleurt.{name}": s for name, s in found.items()} | {
        "classifier.weight": (1, width),
        "classifier.bias": (1,),
    }


@pytest.fixture
def folder(tmp_path):
    """A random checkpoint in the public form. Weights are large enough for every part to show in the score."""
    torch.manual_seed(0)
    weights = {name: 1.5 * torch.randn(shape) for name, shape in shapes().items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def plain_score(folder, reference, caption):
    """The score of one pair read off the weights: BERT's post-norm layers after a projection; no batch, no mask."""
    w = load_file(folder / "model.safetensors")

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def ids_of(text):
        return [WORDS.index(word) if word in WORDS else 1 for word in text.split()]

    first, second = ids_of(reference), ids_of(caption)
    ids, segments = [2, *first, 3, *second, 3], [0] * (len(first) + 2) + [1] * (len(second) + 1)
    part = "bleurt.embeddings."
    x = w[part + "word_embeddings.weight"][ids] + w[part + "token_type_embeddings.weight"][segments]
    x = linear(
        "bleurt.encoder.embedding_projection",
        norm(part + "LayerNorm", x + w[part + "position_embeddings.weight"][: len(ids)]),
    )
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"bleurt.encoder.layer.{i}"
        q, k, v = (linear(f"{layer}.attention.self.{name}", x) for name in ("query", "key", "value"))
        heads = [torch.softmax(q[:, s] @ k[:, s].T / math.sqrt(4), -1) @ v[:, s] for s in (slice(0, 4), slice(4, 8))]
        attended = linear(f"{layer}.attention.output.dense", torch.cat(heads, -1))
        x = norm(f"{layer}.attention.output.LayerNorm", x + attended)
        inner = linear(f"{layer}.intermediate.dense", x)
        inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", inner))
    return linear("classifier", torch.tanh(linear("bleurt.pooler.dense", x[0]))).item()


PAIRS = [
    ("a red circle moves left", "a red circle moves left"),
    ("a red circle moves left", "the blue square"),
    ("the blue square moves up and then down", "a"),
    ("a", "a zebra moves up then left then right and down"),
]


def scores_of(metric, pairs):
    return metric([caption for _, caption in pairs], [[reference] for reference, _ in pairs])["BLEURT"]


def test_score_is_that_of_an_independent_reading_of_the_weights(folder):
    expected = [plain_score(folder, *pair) for pair in PAIRS]
    assert scores_of(Bleurt(str(folder)), PAIRS) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.05  # a score that could not tell texts apart would show nothing


def test_score_does_not_depend_on_what_is_in_the_batch(folder):
    together = scores_of(Bleurt(str(folder), batch_size=4), PAIRS)
    alone = [scores_of(Bleurt(str(folder), batch_size=1), [pair])[0] for pair in PAIRS]
    # float32 sums in another order: some ten units in the last place of scores up to 2
    assert together == pytest.approx(alone, abs=3e-6)
    assert scores_of(Bleurt(str(folder), batch_size=3), PAIRS[::-1])[::-1] == pytest.approx(alone, abs=3e-6)


def test_too_long_a_pair_is_cut_by_the_original_rule(folder):
    metric = Bleurt(str(folder))
    words = "a the red blue circle square moves left right up".split()
    ids, first = metric.encode(" ".join(words), " ".join(words))
    assert len(ids) == 20 and first == 11  # 17 words fit: 9 of the reference, 8 of the caption
    ids, first = metric.encode(" ".join(words * 3), "a red circle")
    assert (len(ids), first, ids[-4:]) == (20, 16, [4, 6, 8, 3])
    assert ids[1:15] == metric.vocabulary.encode(" ".join((words * 3)[:14]))


def test_best_reference_counts_and_an_empty_caption_scores_zero(folder):
    metric = Bleurt(str(folder))
    each = [plain_score(folder, reference, "a red square") for reference in ("a red circle", "the blue square")]
    got = metric(["a red square", " "], [["a red circle", "the blue square"], ["a red circle"]])["BLEURT"]
    assert got == pytest.approx([max(each), 0], abs=1e-5)
    assert metric([""], [["a"]]) == {"BLEURT": [0.0]}


def test_the_older_file_form_with_its_position_ids_is_read_too(folder):
    expected = scores_of(Bleurt(str(folder)), PAIRS)
    weights = load_file(folder / "model.safetensors")
    weights["bleurt.embeddings.position_ids"] = torch.arange(20)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert scores_of(Bleurt(str(folder)), PAIRS) == expected


def change_missing(weights):
    del weights["bleurt.pooler.dense.weight"]


def change_unexpected(weights):
    weights["bleurt.encoder.layer.2.output.dense.weight"] = torch.zeros(8, 10)


def change_shape(weights):
    weights["classifier.weight"] = torch.zeros(1, 9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_missing, r"1 missing, such as rembert.pooler.dense.weight"),
        (change_unexpected, r"1 unexpected, such as .*layer.2.output.dense.weight"),
        (change_shape, r"1 of another shape, such as .*classifier.weight"),
    ],
)
def test_weights_that_are_not_the_architectures_are_refused(folder, change, said):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=said):
        Bleurt(str(folder))


def test_other_models_and_broken_folders_are_refused_with_the_reason(folder, tmp_path):
    def refused(said, **fields):
        (folder / "config.json").write_text(json.dumps({**CONFIG, **fields}))
        with pytest.raises(UserError, match=said):
            Bleurt(str(folder))

    refused("not BLEURT-20 .*'bert'", model_type="bert")
    refused("not BLEURT-20 .*embedding_size None", embedding_size=None)
    refused("do not belong together", vocab_size=5)
    (folder / "tokenizer.json").unlink()
    refused("neither spm.model nor tokenizer.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no BLEURT checkpoint"):
        Bleurt(str(tmp_path / "nowhere"))


def test_sentencepiece_model_of_the_public_checkpoint_is_read_as_the_original_release_does(folder):
    sentencepiece = pytest.importorskip("sentencepiece", reason="the optional tokenizer of BLEURT-20 is not installed")
    text = folder / "text.txt"
    text.write_text("\n".join(f"the {a} {b} moves {c}" for a in WORDS[6:8] for b in WORDS[8:10] for c in WORDS[11:15]))
    special = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]"}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spm"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **{f"{name}_id": i for i, name in enumerate(special)},
        **{f"{name}_piece": piece for name, piece in special.items()},
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    if pieces.get_piece_size() > CONFIG["vocab_size"]:
        weights = load_file(folder / "model.safetensors")
        weights["bleurt.embeddings.word_embeddings.weight"] = torch.randn(pieces.get_piece_size(), 6)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": pieces.get_piece_size()}))
    ids, first = Bleurt(str(folder)).encode("the red", "up")
    assert ids == [2, *pieces.encode("the red"), 3, *pieces.encode("up"), 3] and ids[first - 1] == 3
    assert scores_of(Bleurt(str(folder)), [("the red", "up")])[0] != 0


@pytest.mark.skipif("SWWATCH_BLEURT" not in os.environ, reason="SWWATCH_BLEURT names no BLEURT-20 checkpoint")
def test_the_public_checkpoint_gives_its_model_cards_values():
    got = scores_of(Bleurt(os.environ["SWWATCH_BLEURT"]), [pair[:2] for pair in EXAMPLE])
    assert got == pytest.approx([value for *_, value in EXAMPLE], abs=1e-4)
