"""Flash-VStream's memory, against its rule in plain words, and that what is said is said of it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.policies.memory.vstream import Memory, smaller
from swwatch.policies.see.dtd import Dtd
from swwatch.policies.speak import WaitK
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.variants import Speaks, speaking
from swwatch.rules.visibility import SAID, WATCHED
from tests.helpers.streams import Paced, asking, random_stream
from tests.helpers.turn_streams import Scripted, answers, begin, forward, play, random_steps


def square(one, other) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def one_less(clusters):
    """(mean, weight, time, real) lists of one size: weighted k-means in plain Python."""
    gaps = [square(a[0], b[0]) for a, b in zip(clusters, clusters[1:], strict=False)]
    means = [c[0] for i, c in enumerate(clusters) if i != gaps.index(min(gaps)) + 1]
    for _ in range(10):
        groups = [[] for _ in means]
        for cluster in clusters:
            far = [square(cluster[0], mean) for mean in means]
            groups[far.index(min(far))].append(cluster)
        new = []
        for mean, group in zip(means, groups, strict=True):
            weight = sum(c[1] for c in group)
            new.append([sum(c[0][i] * c[1] for c in group) / weight for i in range(len(mean))] if group else mean)
        if new == means:
            break
        means = new
    left = []
    for group in filter(None, groups):
        weight = sum(c[1] for c in group)
        mean = [sum(c[0][i] * c[1] for c in group) / weight for i in range(len(group[0][0]))]
        real = min((c[3] for c in group), key=lambda x: square(x, mean))
        left.append((mean, weight, sum(c[2] * c[1] for c in group) / weight, real))
    return sorted(left, key=lambda c: c[2])


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.floats(-9, 9, width=16)] * 2), min_size=1, max_size=12, unique=True), st.integers(1, 4))
def test_clusters_are_those_of_weighted_k_means_and_the_heaviest_show_their_nearest_real_patch(features, most):
    memory, clusters, sized = Memory(most, 2), [], torch.float64
    for number, feature in enumerate(features):
        clusters.append((list(feature), 1, number, list(feature)))
        clusters = one_less(clusters) if len(clusters) > most else clusters
        memory.add(torch.tensor([feature], dtype=sized), 1, 1)
    ours = [(c.mean[0].tolist(), c.weight, c.time) for c in memory.clusters]
    assert len(ours) == len(clusters)
    if [c[1] for c in clusters] != [c[1] for c in ours]:
        return  # two neighbours were alike to the last digit
    for (mean, weight, time), theirs in zip(ours, clusters, strict=True):
        assert mean == pytest.approx(theirs[0], abs=1e-3) and (weight, time) == (theirs[1], pytest.approx(theirs[2]))
    heavy = sorted(sorted(range(len(clusters)), key=lambda i: -clusters[i][1])[:2])
    shown = [features[0].tolist() for features, *_ in memory.shown()]
    expected = [clusters[i][3] for i in heavy] + [c[0] for c in clusters]
    assert all(one == pytest.approx(other, abs=1e-3) for one, other in zip(shown, expected, strict=True))
    again = Memory(most, 2)
    again.load_state(memory.state())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(memory.shown(), again.shown(), strict=True))


def test_a_patch_is_made_smaller_by_means_of_what_there_is_and_sizes_do_not_mix():
    picture = torch.arange(6.0)[:, None]  # 2 x 3
    assert smaller(picture, 2, 3)[:, 0].tolist() == [2.0, 3.5]
    memory = Memory(2, 1)
    for rows, columns in ((2, 3), (3, 2), (2, 3), (3, 2)):
        memory.add(picture, rows, columns)
    assert [c.grid for c in memory.clusters] == [(2, 3), (3, 2)] and [c.time for c in memory.clusters] == [2, 3]
    memory.add(picture, 3, 2)
    assert [(c.weight, c.time) for c in memory.clusters] == [(1, 2), (2, 3.5)]


class Seen(Session):
    """Compares every prediction with one forward over prompt, memory, the newest patch and what was said."""

    def _predict(self, rows, embeds, feeds_left):
        logits = yield from super()._predict(rows, embeds, feeds_left)
        newest, watched, said = int(rows.sees[-1]), self.cache.tokens[WATCHED], self.cache.tokens[SAID]
        memory = Memory(self.keep.patches, self.keep.detail)
        for video, grid in zip(self.videos[:newest], self.merged, strict=False):
            memory.add(video, *grid)
        patches = [features for features, *_ in memory.shown()]
        later = [self._embed(ids) for step, ids in self.asked.items() if step <= newest]
        tail = [self._embed(self.markup.suffix)] * (newest == len(self.videos) - 1)
        parts = [self._embed(self._prompt), *patches, *later, self.videos[newest], *tail]
        fed = torch.cat([*parts, self._embed(self._forgetting.said_ids[: len(said)])])
        where = torch.cat([watched.position_ids, said.position_ids], dim=1)
        assert len(fed) == where.shape[1] and int(watched.where(Kind.VIDEO).sum()) == sum(map(len, patches)) + len(
            self.videos[newest]
        )
        mask = Layout.cat([watched, said]).visible()  # words see no step that came after them
        with torch.no_grad():
            theirs = self.model.model.language_model(
                inputs_embeds=fed[None], position_ids=where[:, None], attention_mask=mask[None, None]
            ).last_hidden_state
        atol = 2e-2 if self.variant.name == "gap" else 1e-4  # see test_memory
        torch.testing.assert_close(logits, self.model.lm_head(theirs[0, -1]), atol=atol, rtol=0)
        firsts = watched.position_ids[0, watched.where(Kind.VIDEO)]
        assert int(firsts.min()) == len(self._prompt) and bool((firsts.diff() >= 0).all()), "one after the other"
        self.compared += 1
        return logits


@pytest.mark.parametrize("variant", speaking(Speaks.PARALLEL))
def test_a_narration_is_one_forward_over_the_memory_and_the_newest_patch(load_tiny, variant):
    loaded, alike = load_tiny(variant), variant != "gap"
    stream = random_stream(loaded, [(2, 3)] * 6 if alike else [(2, 2), (3, 2)] * 3)
    options = {"keep": "vstream:2:detail=1", "schedule": WaitK(2), "choose": Greedy(1.0, 20)}
    session = Seen(loaded.model, stream.prompt, **options)
    session.videos = [loaded.model.watch_video(p, g) for p, g in zip(stream.pixels, stream.grids, strict=True)]
    session.merged, session.compared = stream.merged, 0
    session.asked = {3: [*loaded.markup.suffix, 5, 6, loaded.markup.vision_start]}
    list(drive(loaded.model, session.run(Paced(stream, orders=asking(loaded, {3: [5, 6]})))))
    assert session.compared > 5


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_a_chat_turn_is_one_forward_over_the_memory_its_own_video_and_the_words(load_tiny, system):
    loaded, steps = load_tiny(system), random_steps(load_tiny(system), 7)
    keep = "vstream:2:detail=1:turns_s=2:text_sink=9:text_window=9"
    session = begin(loaded, Scripted, keep=keep).tell(answers(loaded, 7))
    memory, videos, held = Memory(2, 1), [loaded.model.watch_video(s.pixel_values, s.grid_thw) for s in steps], []

    def check(s):
        taken = sum(x.grid[0] for x in s.context if x.part is Part.VIDEO and x.round >= 0)
        while memory.count < s.num_steps - taken:
            memory.add(videos[memory.count], 2, 2)
        patches = [features for features, *_ in memory.shown()]
        seen = [*patches, *videos[s.num_steps - taken : s.num_steps]]
        assert s.cache.get_seq_length() == len(ids_of(s.context)) - s.num_pending
        theirs = forward(loaded, s.context, s.policy.name, [torch.cat(seen)])
        fed = s.cache.get_seq_length()
        ours = s.seen_logits[-1]
        torch.testing.assert_close(ours, theirs[fed - 1], atol=1e-4, rtol=0)
        held.append([len(x) for x in s.context if x.part is Part.VIDEO])

    play(session, steps, check)
    first = [12] if system == "livecc" else [4]
    assert held[0] == first and held[-1] == [4, 1, 1, 4] and session.memory.count == 6


def test_it_needs_whole_patches(load_tiny, monkeypatch):
    model = load_tiny("group").model
    monkeypatch.setattr(model, "settings", replace(model.settings, see=Dtd(0.5)))
    with pytest.raises(UserError, match="take --see all"):
        Session(model, [1], keep="vstream")
