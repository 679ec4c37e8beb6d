"""What chat turns let go of, and what comes back: carried out in the context and in the cache at once."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from swwatch.engine.base import BaseSession
from swwatch.engine.keeping import hold, queries_of, recall, search, thin
from swwatch.engine.requests import Feed, Run
from swwatch.policies.memory.pieces import TOLERANCE_S, joined, seconds_of_video, whole
from swwatch.policies.memory.policy import SEEN, Shown, shown_of
from swwatch.policies.see.seen import Seen
from swwatch.rules.cursor import layout_of
from swwatch.rules.layout import Layout
from swwatch.rules.patch import Placed
from swwatch.rules.spans import Part, Span, ids_of
from swwatch.rules.visibility import WATCHED

MEMORY = -2  # the round of the span that is the memory


class ForgetfulTurns(BaseSession):
    """The part of a TurnSession that forgets, and what it remembers besides its cache.

    Attributes:
        memory: of a policy that merges.
        seen: the SEE policy, which drops nothing.
    """

    def _begin_keeping(self) -> None:
        """Raises UserError: the policy is not for this variant, or this attention cannot carry it out."""
        self.keep.check(self.variant)
        self.keep.attention(self.model.attention)
        self.memory = self.keep.memory() if self.keep.merges else None
        self.seen = Seen(self.model.settings.see)

    def state(self) -> dict:
        return super().state() | {
            "memory": None if self.memory is None else self.memory.state(),
            "see": self.seen.state() if self.seen.policy.reuses else None,
        }

    def restore(self, state: dict) -> None:
        super().restore(state)
        if self.memory is not None:
            self.memory.load_state(state["memory"])
        if state.get("see") is not None:  # an older version has none
            self.seen.load_state(state["see"])

    def _told(self) -> dict[str, int]:
        """What came back for the newest question, or is read of a memory, and what is parked, for trace.Asked."""
        if self.keep.writes:
            return {"num_recalled": self.cache.long_term.num_read}
        if not self.keep.parks:
            return {}
        came = sum(len(span) for span in self.context if came_back(span))
        return {"num_recalled": came, "host_bytes": self.cache.parking.nbytes}

    def _forget(self, end_s: float) -> Run:
        """Let go of what a turn that ends at `end_s` no longer sees."""
        if not self.num_rounds:
            return
        if self.keep.folds:
            self.context = self.turns.folded(self.context)
        self._thin()
        yield from self._recall(())
        self._write(end_s)
        if self.keep.carries:
            yield from self._carry()
        weights = (self.weights,) if self.keep.weighs else ()
        left = self.keep.left(self.context, self._begin_context, end_s, self._mute, *weights)
        stays = [i for _, place in left for i in place]
        if not self.keep.every_turn and [span for span, _ in left] == self.context:
            return
        if not self.keep.anew and self.pending and stays[-1] != len(ids_of(self.context)) - 1:
            yield from self._read()  # words that are about to move must be in the cache
        if self.keep.anew:
            query = next((span for span in self.context if span.part is Part.QUERY), None)
            stays = [span for span, _ in left] if self.keep.folds else joined(left)
            yield from self._begin_anew(self._remember(stays) if self.keep.merges else stays)
            if query is not None and query not in self.context:
                self.query = self.query or self.turns.tokenizer.decode(query.ids)  # asked again
            return
        if self.keep.parks:
            self._park({place.start for _, place in left})
        self._hold(joined(left), stays)

    def _hold(self, context: list[Span], index: Sequence[int]) -> None:
        """Hold a context, which is these of the tokens in the cache and then those pending."""
        where, self.context = {}, context
        if self.policy.compact and self.keep.moves:
            where[WATCHED], self.next_position = self.policy.place(context, 0, self.t_step)
        index = torch.tensor(index, dtype=torch.int64)
        self.pending = hold(self.cache, self.pending, {WATCHED: index}, where, WATCHED)

    def _park(self, left: set[int]) -> None:
        """Park the video that goes: all but what begins at these places."""
        where = self.cache.tokens[WATCHED].position_ids
        for span, place in whole(self.context):
            if span.part is Part.VIDEO and place.start not in left:
                patches, rows, columns = span.grid
                placed = Placed(tuple(where[:, place.start].tolist()), rows, columns)
                index = torch.arange(place.start, place.stop)
                self.cache.parking.park(index, placed, patches, self.keep.host_mb * 2**20)

    def _recall(self, query: Sequence[Span]) -> Run:
        """What a question brought back goes; what this one asks for, if there is one, comes behind the beginning."""
        if self.keep.writes:
            yield from self._read_pages(query)
        if not self.keep.parks:
            return
        pieces = [(span, place) for span, place in whole(self.context) if not came_back(span)]
        if len(pieces) < len(self.context):
            self._hold([span for span, _ in pieces], [i for _, place in pieces for i in place])
        if not (query and self.cache.parking.blocks):
            return
        scores = yield from search(self.cache, *self._as_rows(query))
        end, total = len(self.cache.tokens[WATCHED]), len(ids_of(self.context))
        spans = [
            Span(Part.VIDEO, (self.markup.video,) * len(block.tokens), (block.patches, *block.placed[1:3]))
            for block in recall(self.cache, self.keep, scores)
        ]
        begin = next(i for i, span in enumerate(self.context) if span.round >= 0)
        place, came = len(ids_of(self.context[:begin])), len(ids_of(spans))
        index = [*range(place), *range(end, end + came), *range(place, end), *range(end + came, total + came)]
        self._hold([*self.context[:begin], *spans, *self.context[begin:]], index)

    def _remember(self, left: list[Span]) -> list[Span]:
        """What is left, with the memory behind the beginning, to which the newest turn's video comes before."""
        for span in self.context:
            if span.part is Part.VIDEO and not came_back(span):
                for patch in self._seen[span.round].chunk(span.grid[0]):
                    self.memory.add(patch, *span.grid[1:])
        patches, left = self.memory.shown(), [span for span in left if not came_back(span)]
        spans = [Span(Part.VIDEO, (self.markup.video,) * len(patch), (1, *grid)) for patch, *grid in patches]
        self._seen = {-1: torch.cat([patch for patch, *_ in patches])}
        begin = next((i for i, span in enumerate(left) if span.round >= 0), len(left))
        return [*left[:begin], *spans, *left[begin:]]

    def _carry(self) -> Run:
        """Let one token take the place of each patch of the newest turn, and let go of carriers that are not shown.

        `_seen` holds the mean of a turn whose carriers are there.
        """
        tokens, taken, embeds, context = self.cache.tokens[WATCHED], [], [], []
        for span, place in whole(self.context):
            if span.part is Part.VIDEO and (seen := self._seen[span.round]).ndim == 2:
                patches = span.grid[0]
                embeds.append(seen.unflatten(0, (patches, -1)).mean(1))
                self._seen[span.round] = seen.mean(0)
                place = torch.tensor(place).view(patches, -1)[:, -1].tolist()  # the last token of each patch
                taken += place
                span = replace(span, ids=span.ids[:patches], grid=(patches, 1, 1))
            context.append((span, place))
        if taken:
            self.num_fed += len(taken)
            yield Feed(self.cache, tokens[torch.tensor(taken)], torch.cat(embeds), None)
        where = {place: len(tokens) + i for i, place in enumerate(taken)}  # pending words stand behind these
        video = [replace(piece, feature=self._seen[piece.number]) for piece in shown_of(self.context)]
        shown = self.keep.shown(video)
        left = [(span, place) for span, place in context if span.part not in SEEN or span.round in shown]
        index = [where.get(i, i if i < len(tokens) else i + len(taken)) for _, place in left for i in place]
        self._seen = {number: feature for number, feature in self._seen.items() if number in shown}
        self._hold([span for span, _ in left], index)

    def _as_rows(self, query: Sequence[Span]) -> tuple[Layout, torch.Tensor]:
        """A question as it would be fed next, and its embeddings."""
        where, _ = self.policy.place(query, self.next_position, self.t_step)
        return layout_of(query, where, self.num_laid), self._embed(ids_of(query))

    def _write(self, end_s: float) -> None:
        """Write into the memory what leaves the window when a turn that ends at `end_s` is about to begin."""
        if not self.keep.writes:
            return
        pieces = [(span, place) for span, place in whole(self.context) if span.part is Part.VIDEO]
        shown = self.keep.shown([*shown_of(self.context), Shown(self.num_rounds, self.context[-1].end_s, end_s)])
        leaving = [(span, place) for span, place in pieces if span.round not in shown]
        if all(span.round == MEMORY for span, _ in leaving):
            return
        left = self.cache.long_term.write(self.keep, torch.tensor([i for _, place in leaving for i in place]))
        spans, first = [span for span, _ in leaving], leaving[0][0]
        line = replace(first, ids=first.ids[:1] * left, grid=(1, 1, left), round=MEMORY)
        self.context = [line if span is first else span for span in self.context if span is first or span not in spans]

    def _read_pages(self, query: Sequence[Span]) -> Run:
        """Read of the memory what a question asks for, all of it if there is none."""
        memory, self.cache.long_term.queries = self.cache.long_term, None
        if WATCHED in self.cache.tokens:
            self.cache.show(WATCHED)
        first = next((place.start for span, place in whole(self.context) if span.round == MEMORY), None)
        if query and first is not None:
            rows, embeds = self._as_rows(query)
            memory.ask((yield from queries_of(self.cache, rows, embeds)), rows)
            memory.read(self.keep, first, "order")

    def _thin(self) -> None:
        """Thin the newest group of seconds, if the policy does so and all of it has been watched."""
        pieces = [(span, place) for span, place in whole(self.context) if span.part is Part.VIDEO]
        group = [(span, place) for span, place in pieces if span.round >= self.num_thinned]
        if not self.keep.thins or seconds_of_video(span for span, _ in group) < self.keep.group_s - TOLERANCE_S:
            return
        left = thin(self.cache, self.keep, torch.tensor([i for _, place in group for i in place]))
        spans, last = [span for span, _ in group], group[-1][0]
        # one line of tokens, which nobody lays out again
        line = replace(last, ids=last.ids[:1] * left, grid=(1, 1, left), start_s=spans[0].start_s)
        self.context = [line if span is last else span for span in self.context if span is last or span not in spans]
        self.num_thinned = last.round + 1


def came_back(span: Span) -> bool:
    """Whether a question brought it back: else there is no video before the first turn, but for the memory."""
    return span.part is Part.VIDEO and span.round == -1
