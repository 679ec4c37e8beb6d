"""JSON with mistakes in it: what a good request becomes, at random but by a seed."""

import copy
import random

WORDS = ["", "\0", "ü", "x" * 3000, "<|im_end|>", "<1.5 seconds>", "<999999999 seconds>", "auto", "never", "wait-k:0"]
WORDS += ["gate", "system", "assistant", "image_url", "file", "/", "file://[", "file:///etc/passwd", "http://[::1"]
WORDS += [
    "data:,",
    "data:;base64,",
    "data:image/png;base64,AAAA",
    "data:video/mp4;base64,AAAA",
    "data:video/jpeg;base64,,",
]
ODD = [None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e308, 2**70, [], {}, [[]], [None], *WORDS]


def places(value) -> list[tuple[dict | list, str | int]]:
    """(what holds it, its key) of every value inside."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *places(value[key]))]


def mutated(good: dict, seed: int) -> dict:
    """A copy of a JSON object with one to three mistakes: values that are odd, gone, doubled, or another's."""
    rng, made = random.Random(seed), copy.deepcopy(good)
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = places(made)
        if not found:
            break
        holder, key = rng.choice(found)
        act = rng.choice(["odd", "odd", "odd", "gone", "another", "doubled"])
        if act == "odd":
            holder[key] = copy.deepcopy(rng.choice(ODD))
        elif act == "gone":
            del holder[key]
        elif act == "another":
            other, name = rng.choice(found)
            holder[key] = copy.deepcopy(other[name])
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
    return made
