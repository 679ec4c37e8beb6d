"""Parallel variants on a stream without end: what is forgotten, and where the rest stands then.

Once a step is in, and before words are said about it, the KEEP policy says what goes; video may also be thinned, or
parked for a question to bring back, and what stays be read anew. Where the policy moves what stays, that is laid out
anew by the variant's own rule, as if the stream had begun with the oldest step that is left: under GDPE and GIPE each
axis is closed up by itself (GIPE from its constant), under OSPE the recurrence of shared starts begins again. Prompt
and questions always stay.

The moment is the same in every engine, so that all say the same: the next step, whether it rides in the words or comes
after them, sees what these words see.
"""

import math
from dataclasses import replace

import torch

from swwatch.engine.incoming import Incoming
from swwatch.engine.keeping import feed, hold, moved, queries_of, recall, search, thin
from swwatch.engine.requests import Feed, Run
from swwatch.policies.memory.pieces import TOLERANCE_S
from swwatch.policies.memory.policy import Shown
from swwatch.rules.chosen import chosen
from swwatch.rules.closing_up import lay_out
from swwatch.rules.layout import KINDS, Kind, Layout
from swwatch.rules.patch import Placed
from swwatch.rules.visibility import SAID, WATCHED


def _video_of(watched: Layout, steps: list[int]) -> torch.Tensor:
    """(K,) bool, true at the video of these steps and at what is around it."""
    shown = watched.where(Kind.VIDEO) | watched.where(Kind.AROUND)
    return shown & torch.isin(watched.step, torch.tensor(steps, dtype=torch.int64))


class Forgetting:
    """What a session that forgets does when a step is in. One for each session.

    Attributes:
        said_ids: ids of the said tokens that are kept, fed or not, in order; the repetition penalty counts them.
        embeds: (K, D) of all that was watched and is in the cache, where the policy has it read anew.
        num_thinned: steps whose groups have been thinned.
        recalled: steps whose video has come back for a question; see _common of model.parking.
        features: step -> (W,) mean of what its patch was, of the carriers that there are.
        memory: of a policy that merges; newest: the patch that will join it next, its rows and columns.
    """

    def __init__(self, session):
        self.keep, self.session = session.keep, session
        self.said_ids: list[int] = []
        self.embeds: torch.Tensor | None = None
        self.num_thinned = 0
        self.recalled: list[int] = []
        self.features: dict[int, torch.Tensor] = {}
        self.memory = self.keep.memory() if self.keep.merges else None
        self.newest: tuple[torch.Tensor, int, int] | None = None

    def say(self, ids: list[int]) -> None:
        """Note what is said."""
        self.said_ids += list(ids)

    def watch(self, embeds: torch.Tensor) -> None:
        """Note what is watched: (Q, D), in the order of the cache."""
        if self.keep.anew:
            self.embeds = embeds if self.embeds is None else torch.cat([self.embeds, embeds])

    def forget(self, incoming: Incoming) -> Run:
        """Let go of what the policy does not keep, and close up the rest. Returns whether anything went.

        Args:
            incoming: the step that is in.
        """
        self.watch(incoming.embeds)
        if self.keep.carries:
            yield from self._carry(incoming)
        session, cache, placed = self.session, self.session.cache, self.session.cursor.placed
        watched, pending = cache.tokens[WATCHED], [rows for _, rows in session.pending]
        parts = [cache.tokens[SAID], *pending] if SAID in cache.tokens else pending
        said, num_fed = Layout.cat(parts) if parts else watched[:0], len(cache.tokens.get(SAID, ()))
        gone = self._leaving(watched, incoming)
        shown = [step for step in placed if step not in gone]
        words = (~said.where(Kind.HEADER)).nonzero()[:, 0]
        places, stays = self.keep.said(said.step[words], shown), {}
        if gone:
            leaves = _video_of(watched, gone)
            if self.keep.writes:  # what is around it alone
                leaves &= watched.where(Kind.AROUND)
            stays[WATCHED] = (~leaves).nonzero()[:, 0]
        if places is not None and len(places) < len(words):
            held = said.where(Kind.HEADER).index_fill(0, words[places], True)
            held[num_fed:] = True  # what is pending is yet to be read
            stays[SAID] = held.nonzero()[:, 0]
            said, self.said_ids = said[stays[SAID]], [self.said_ids[i] for i in stays[SAID].tolist()]
        for step in gone:
            del placed[step]
        if self.memory is not None:
            stays.pop(WATCHED, None)
        if WATCHED in stays and self.keep.anew:
            self.embeds = self.embeds[chosen(stays[WATCHED], self.embeds.device)]
        left = len(stays[SAID][stays[SAID] < num_fed]) if SAID in stays else num_fed
        session.pending = hold(cache, session.pending, stays, {}, SAID)
        came = yield from self._recall(incoming)
        if self.keep.writes:
            yield from self._write(incoming, bool(gone))
        if not (stays or came or self.memory is not None):
            return self._thin()
        if self.keep.moves or self.keep.anew:
            watched = self._remember(incoming) if self.memory is not None else cache.tokens[WATCHED]
            variant, t_per_step = session.variant, session.model.t_per_step
            texts = {SAID: said} | ({} if session.thinking is None else session.thinking.held())
            watched, texts, session.cursor.rule = lay_out(variant, t_per_step, watched, texts, placed)
            said = texts[SAID]
        if self.keep.anew:
            yield from self._read_anew(watched, said[:left])
            session.pending = moved(session.pending, said.position_ids[:, left:])
        elif self.keep.moves:
            where = {WATCHED: watched.position_ids, SAID: said.position_ids}
            session.pending = hold(cache, session.pending, {}, where, SAID)
            if session.thinking is not None:
                session.thinking.move(texts)
        return True

    def _leaving(self, watched: Layout, incoming: Incoming) -> list[int]:
        """Steps whose video goes. It is parked where the policy does so, and if it had only come back, is there."""
        placed, parking = self.session.cursor.placed, self.session.cache.parking
        video = [step for step in sorted(placed) if step not in self.recalled]
        step_s = self.session.model.settings.step_s
        weigh = self.session.weights.perplexity if self.keep.weighs else lambda _: None
        pieces = [(step, step * step_s, (step + 1) * step_s, weigh(step), self.features.get(step)) for step in video]
        shown = self.keep.shown([Shown(*piece) for piece in pieces])
        gone = [step for step in video if step not in shown]
        for step in gone if self.keep.parks else ():
            index = _video_of(watched, [step]).nonzero()[:, 0]
            if len(index):
                parking.park(index, placed[step], 1, self.keep.host_mb * 2**20)
        for step in gone:
            self.session.weights.losses.pop(step, None)
            self.features.pop(step, None)
        if incoming.asks or self.session.finished:
            gone, self.recalled = [*gone, *self.recalled], []
        return gone

    def _remember(self, incoming: Incoming) -> Layout:
        """What is watched, with the memory behind the prompt in the place of all video but the newest step's. Its
        patches count as steps before the stream. What they are goes into `embeds`."""
        watched, placed, known = self.session.cache.tokens[WATCHED], self.session.cursor.placed, self.embeds
        if self.newest is not None:
            self.memory.add(*self.newest)
        video, rows, columns = incoming.rows.where(Kind.VIDEO), *incoming.patch[:2]
        self.newest = (incoming.embeds[chosen(video, known.device)], rows, columns) if rows * columns else None
        for step in placed.keys() - {incoming.index}:
            del placed[step]
        patches, parts = self.memory.shown(), []
        for step, (_, *grid) in enumerate(patches, start=-len(patches)):
            placed[step] = Placed((0, 0, 0), *grid)
            line = torch.full((math.prod(grid),), step)
            where = torch.stack(torch.meshgrid(torch.arange(1), *map(torch.arange, grid), indexing="ij")).flatten(1)
            parts.append(Layout(line * 0 + KINDS.index(Kind.VIDEO), line, line * 0 + WATCHED, line, line, where))
        mine = watched.where(Kind.PROMPT) | (watched.step == incoming.index)
        prompt = (watched.where(Kind.PROMPT) & (watched.step <= 0)).nonzero()[:, 0]
        later = mine.index_fill(0, prompt, False).nonzero()[:, 0]
        before = replace(watched[prompt], step=watched.step[prompt].clamp(max=-len(patches)))
        ends = [known[chosen(index, known.device)] for index in (prompt, later)]
        self.embeds = torch.cat([ends[0], *(patch[0] for patch in patches), ends[1]])
        both = Layout.cat([before, *parts, watched[later]])
        return replace(both, order=int(watched.order.max()) + 1 - len(both) + torch.arange(len(both)))

    def _carry(self, incoming: Incoming) -> Run:
        """Let one token take the place of a step's patch: it reads the patch, and then that goes."""
        cache, video = self.session.cache, incoming.rows.where(Kind.VIDEO)
        if not bool(video.any()):
            return
        rows = incoming.rows[video]
        seen = incoming.embeds[chosen(video, incoming.embeds.device)]
        mean = self.features[incoming.index] = seen.detach().mean(0)
        watched = cache.tokens[WATCHED]
        first = int((watched.where(Kind.VIDEO) & (watched.step == incoming.index)).nonzero()[0, 0])
        yield Feed(cache, rows[-1:], mean[None], None)
        place = torch.arange(len(watched) + 1)
        cache.keep(WATCHED, torch.cat([place[:first], place[-1:], place[first + len(rows) : -1]]))

    def _recall(self, incoming: Incoming) -> Run:
        """Bring back what a question asks for, in the order of time. Returns whether anything came.

        What is said sees it, and nothing that is watched does.
        """
        cache, watched = self.session.cache, self.session.cache.tokens[WATCHED]
        if not (incoming.asks and cache.parking.blocks):
            return False
        scores = yield from search(cache, *self._again(incoming))
        for block in recall(cache, self.keep, scores):
            step = int(block.tokens.step[0])
            self.session.cursor.placed[step] = block.placed
            self.recalled.append(step)
        by_time = cache.tokens[WATCHED].order.argsort()
        cache.keep(WATCHED, by_time)
        cache.hide(WATCHED, (by_time >= len(watched)).nonzero()[:, 0])
        return True

    def _again(self, incoming: Incoming) -> tuple[Layout, torch.Tensor]:
        """The questions that came with a step as they would be fed behind all that is in, and their embeddings."""
        watched = self.session.cache.tokens[WATCHED]
        ids = [token for ask in incoming.asks for token in ask.ids]
        rows = watched[watched.where(Kind.PROMPT)][-len(ids) :]
        return replace(rows, order=int(watched.order.max()) + 1 + torch.arange(len(ids))), self.session._embed(ids)

    def _write(self, incoming: Incoming, gone: bool) -> Run:
        """Write what has gone into the memory, and read of it what the question asks for that is being answered."""
        cache = self.session.cache
        memory, placed = cache.long_term, torch.tensor(list(self.session.cursor.placed), dtype=torch.int64)
        cache.show(WATCHED)
        watched = cache.tokens[WATCHED]
        video = (watched.where(Kind.VIDEO) & ~torch.isin(watched.step, placed)).nonzero()[:, 0]
        if gone and len(video):
            memory.write(self.keep, video)
        if incoming.asks:
            rows, embeds = self._again(incoming)
            memory.ask((yield from queries_of(cache, rows, embeds)), rows)
        elif self.session.finished:
            memory.queries = None
        if len(video):
            memory.read(self.keep, int(video[0]), "step")

    def recalled_now(self) -> dict[str, int]:
        """What came back for the newest question, and what is parked, for trace.Asked."""
        watched = self.session.cache.tokens[WATCHED]
        came = int(_video_of(watched, self.recalled).sum())
        if self.keep.writes:
            came = self.session.cache.long_term.num_read
        return {"num_recalled": came, "host_bytes": self.session.cache.parking.nbytes}

    def _thin(self) -> bool:
        """Thin the newest group of seconds, if the policy does so and all of it is in. Returns False: no word went."""
        steps = [step for step in sorted(self.session.cursor.placed) if step >= self.num_thinned]
        if not self.keep.thins or len(steps) * self.session.model.settings.step_s < self.keep.group_s - TOLERANCE_S:
            return False
        watched = self.session.cache.tokens[WATCHED]
        video = (watched.where(Kind.VIDEO) & torch.isin(watched.step, torch.tensor(steps))).nonzero()[:, 0]
        if len(video):
            thin(self.session.cache, self.keep, video)
        self.num_thinned = steps[-1] + 1
        return False

    def _read_anew(self, watched: Layout, said: Layout) -> Run:
        """Read what is left into an empty cache."""
        session = self.session
        session.cache = session._new_cache()
        yield from feed(session.cache, watched, self.embeds, None)
        if len(said):
            yield from feed(session.cache, said, session._embed(self.said_ids[: len(said)]), None)

    def state(self) -> dict:
        """What later steps depend on, in lists and tensors."""
        return {
            "num_thinned": self.num_thinned,
            "recalled": list(self.recalled),
            "said_ids": list(self.said_ids),
            "embeds": self.embeds,
            "features": dict(self.features),
            "newest": self.newest,
            "memory": None if self.memory is None else self.memory.state(),
        }

    def load_state(self, state: dict) -> None:
        """Go on from a `state`."""
        self.said_ids, self.embeds = list(state["said_ids"]), state["embeds"]
        self.num_thinned, self.recalled = state["num_thinned"], list(state["recalled"])
        self.features, self.newest = dict(state["features"]), state["newest"]
        if self.memory is not None:
            self.memory.load_state(state["memory"])
