"""Each row of SEE says what a slow reading of its rule says, whatever the patches."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.policies.see import SEE, Merged, parse_see
from swwatch.policies.see.curve import Curve
from swwatch.policies.see.dtd import Dtd, DtdPixels
from swwatch.policies.see.flash import Flash
from swwatch.policies.see.seen import Seen
from swwatch.policies.see.stc import Stc

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4))


@st.composite
def videos(draw, width=6, changing=False):
    """(patches, size): patches (n, width) that resemble one another more or less; their size may change once."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    rows, columns = draw(SIZES)
    now, steps = torch.randn(rows * columns, width, generator=generator), []
    for _ in range(draw(st.integers(1, 6))):
        share = torch.rand(len(now), 1, generator=generator)
        now = now * share + torch.randn(now.shape, generator=generator) * (1 - share)
        steps.append((now, rows, columns))
    if changing and draw(st.booleans()):
        steps.append((torch.randn((rows + 1) * columns, width, generator=generator), rows + 1, columns))
    return steps


def answers(policy, steps) -> list:
    state = policy.begin()
    return [state.keep(*step) for step in steps]


def cosine(one, other) -> float:
    return float(one @ other) / (math.sqrt(float(one @ one)) * math.sqrt(float(other @ other)))


@given(videos(changing=True), st.floats(-0.9, 0.9))
@settings(max_examples=50, deadline=None)
def test_dtd_drops_a_token_that_is_like_the_same_place_of_the_patch_before(steps, threshold):
    expected = [None]
    for (before, *size), (now, *new_size) in zip(steps, steps[1:], strict=False):
        new = [cell for cell in range(len(now)) if size == new_size and cosine(now[cell], before[cell]) <= threshold]
        expected.append(new if size == new_size else None)
    assert answers(Dtd(threshold), steps) == expected


@given(st.integers(0, 10**6), SIZES, st.floats(0.1, 2))
@settings(max_examples=30, deadline=None)
def test_dtd_of_pixels_compares_the_last_frame_before_with_the_first_frame_now(seed, size, threshold):
    rows, columns = size
    video = torch.randn(4, rows * columns, 4, 3, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    expected = [None]
    for before, now in zip(video, video[1:], strict=False):
        apart = [float((now[i, :, :, 0] - before[i, :, :, 1]).abs().mean()) for i in range(rows * columns)]
        expected.append([cell for cell, distance in enumerate(apart) if distance >= threshold])
    assert answers(DtdPixels(threshold), [(patch.flatten(1), rows, columns) for patch in video]) == expected


@given(videos(), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_stc_keeps_what_is_least_like_its_patch_and_the_past(steps, share):
    means, expected = [], []
    for now, _, _ in steps:
        spread = [statistics.pvariance(channel) for channel in now.T.double().tolist()]
        quiet = sorted(range(now.shape[1]), key=spread.__getitem__)[: now.shape[1] // 2]
        anchors = [now.mean(0), *([torch.stack(means).mean(0)] if means else [])]
        scores = []
        for token in now:
            score = 0.0
            for anchor in anchors:
                squared = 2 - 2 * cosine(token[quiet], anchor[quiet])
                score += sum(math.exp(-squared / (2 * 2.0**power)) for power in range(-3, 2))
            scores.append(score)
        means.append(now.mean(0))
        expected.append((scores, max(1, round(share * len(now)))))
    for kept, (scores, count) in zip(answers(Stc(share), steps), expected, strict=True):
        assert kept == sorted(set(kept)) and len(kept) == count
        gone = [scores[cell] for cell in range(len(scores)) if cell not in kept]
        assert not gone or max(scores[cell] for cell in kept) <= min(gone) + 1e-5, "the lowest, but for rounding"


@given(videos(), st.floats(0, 1), st.floats(0, 1), st.floats(-0.5, 0.9))
@settings(max_examples=50, deadline=None)
def test_flash_takes_what_differs_drops_what_the_patch_before_had_and_merges_the_rest(steps, share, alpha, threshold):
    before = None
    for (now, *_), answer in zip(steps, answers(Flash(share, alpha, threshold), steps), strict=True):
        budget = math.ceil(share * len(now))
        diverse = farthest([[1 - cosine(a, b) for b in now] for a in now], math.ceil(alpha * budget))
        told = {i for i, token in enumerate(now) if before is not None and likest(token, before) > threshold}
        rest = [cell for cell in range(len(now)) if cell not in diverse and cell not in told]
        groups = grouped([now[cell] for cell in rest], budget - len(diverse))
        expected = {cell: {cell} for cell in diverse}
        expected |= {rest[peak]: {rest[i] for i in members} for peak, members in groups.items()}
        assert isinstance(answer, Merged) and answer.cells == sorted(expected) and len(answer.cells) <= budget
        for cell, weights in zip(answer.cells, answer.weights, strict=True):
            assert set(weights.nonzero()[:, 0].tolist()) == expected[cell]
            assert weights.sum().item() == pytest.approx(1) and weights.unique().numel() <= 2
        before = now


def likest(token, others) -> float:
    return max(cosine(token, other) for other in others)


def farthest(distance, count) -> list[int]:
    """From the point that is farthest from all others on, again and again the farthest from those that are chosen."""
    chosen, everyone = [], range(len(distance))
    while len(chosen) < count:
        against = chosen or everyone
        away = [min([distance[i][j] for j in against if j != i], default=0) for i in everyone]
        chosen.append(max((i for i in everyone if i not in chosen), key=away.__getitem__))
    return chosen


def grouped(points, count) -> dict[int, set[int]]:
    """Peak -> the points that are nearest to it. Density is of the 7 nearest, a peak is dense and far from denser."""
    if not points or count < 1:
        return {}
    everyone = range(len(points))
    apart = [[math.sqrt(max(0.0, 2 - 2 * cosine(a, b))) for b in points] for a in points]
    density = []
    for i in everyone:
        near = sorted(apart[i][j] for j in everyone if j != i)[:7]
        density.append(math.exp(-sum(d * d for d in near) / max(1, len(near))))
    far = [
        min([apart[i][j] for j in everyone if density[j] > density[i]], default=max(map(max, apart))) for i in everyone
    ]
    peaks = sorted(everyone, key=lambda i: -density[i] * far[i])[:count]
    groups = {peak: {peak} for peak in peaks}
    for i in set(everyone) - set(peaks):
        groups[min(peaks, key=lambda peak: apart[i][peak])].add(i)
    return groups


@given(videos(), st.floats(0, 1), st.floats(-1, 0), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_curve_gates_by_what_patches_before_were_like(steps, weight, low, high, momentum):
    pictures = [patch.double().mean(0) / patch.double().mean(0).norm() for patch, _, _ in steps]
    scores = []
    for number, answer in enumerate(answers(Curve(weight, low, high, momentum), steps)):
        if number < 2:
            assert answer is None
            continue
        first, second, third = pictures[number - 2 : number + 1]
        score = (1 - cosine(second, third)) + weight * (1 - cosine(second - first, third - second))
        scores.append(score)
        if len(scores) == 1:
            assert answer is None, "there is nothing to compare with"
            continue
        weights = [momentum ** (len(scores) - 2 - i) for i in range(len(scores) - 1)]
        mean = sum(w * s for w, s in zip(weights, scores, strict=False)) / sum(weights)
        spread = sum(w * (s - mean) ** 2 for w, s in zip(weights, scores, strict=False)) / sum(weights)
        lower, upper = (mean + k * math.sqrt(spread) for k in (low, high))
        if min(abs(score - lower), abs(score - upper)) < 1e-5:
            continue  # rounding decides
        kind = "clear" if answer is None else "small" if isinstance(answer, Merged) else "dropped"
        assert kind == ("clear" if score >= upper else "dropped" if score < lower else "small")
        assert kind != "dropped" or answer == []


@given(st.floats(1e-3, 2), st.floats(0, 0.99))
def test_curve_drops_no_more_than_four_patches_behind_a_first_one_in_which_much_happens(first, share):
    """However little happens then."""
    state, dropped = Curve().begin(), []
    for score in [first, *[first * share] * 40]:
        dropped.append(score < state.mean - 0.5 * state.variance**0.5)
        state.follow(score)
    assert [number for number, gone in enumerate(dropped) if gone] == [1, 2, 3, 4]


def test_a_small_patch_has_the_mean_of_each_two_by_two_tokens_and_of_what_there_is_at_an_edge():
    policy = Curve(low=-9.0, high=9.0)
    features = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(3))
    state = policy.begin()
    for patch in features[:4]:
        state.keep(patch, 2, 3)
    state.variance = 100.0  # a score lies between the gates now
    cells, weights = state.keep(features[4], 2, 3)
    blocks = torch.tensor([[0, 1, 3, 4], [2, 5, 2, 5]])
    assert cells == [0, 2] and torch.allclose(weights @ features[4], features[4][blocks].mean(1))


@pytest.mark.parametrize("name", SEE)
def test_a_stream_goes_on_from_its_state_also_from_a_file(name, tmp_path):
    policy, generator = parse_see(name), torch.Generator().manual_seed(0)
    steps = [torch.randn(4, 24 * 9, generator=generator) for _ in range(8)]

    def ask(stream, tokens):
        return stream.look(tokens, (2, 2))[0] if policy.decides_late else stream.lay(tokens, (2, 2))

    whole, first, second = Seen(policy), Seen(policy), Seen(policy)
    for tokens in steps[:4]:
        ask(whole, tokens), ask(first, tokens)
    torch.save(first.state(), tmp_path / "state")
    second.load_state(torch.load(tmp_path / "state", weights_only=True))
    assert [ask(second, tokens) for tokens in steps[4:]] == [ask(whole, tokens) for tokens in steps[4:]]
    assert (second.num_arrived, second.num_dropped) == (whole.num_arrived, whole.num_dropped)


@pytest.mark.parametrize("text", ["dtd:2", "stc:-0.1", "flash:0.5:alpha=7", "curve:0.2:low=1:high=0", "dtd_pixels:-1"])
def test_numbers_out_of_their_range_are_refused(text):
    with pytest.raises(UserError, match="must be"):
        parse_see(text)
