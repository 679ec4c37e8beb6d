"""Who may attend to whom: the one rule behind every mask of training and streaming.

Every token belongs to a stream. Variants that speak after the video or in turn with it put all tokens into
one stream; those that speak while they watch have two, what was watched (prompt, video, suffix) and what is said
(header, answer). Inside a stream attention is causal; a said token also sees what was watched, up to the
newest video step that it is allowed to know; a watched token never sees text.

Two video steps of one token each (V), answer tokens (a) at one per step, k = 1, without prompt and suffix:

           V1 V2 a1 a2          a row carries what the token it PREDICTS may see, so row a1, which
        V1  1  .  .  .          predicts a2 at step 2, already sees V2
        V2  1  1  .  .
        a1  1  1  1  .
        a2  1  1  1  1

A third stream, where there is one, is what is thought: it sees what was watched as words do, and earlier thoughts.
Words see what was thought before their own step began, so that both may be chosen at once, in one forward or apart.
Thoughts (c) at one per step beside the same words, and a third step at which nothing is thought any more:

           V1 V2 V3 c1 c2 a1 a2 a3
        c1  1  1  .  1  .  .  .  .     fed at step 2, where it predicts c2
        c2  1  1  1  1  1  .  .  .     predicts nothing: it is never fed in a stream, and no word sees it
        a1  1  1  .  .  .  1  .  .     predicts a2 at step 2, at which c1 is only being read
        a2  1  1  1  1  .  1  1  .     predicts a3 at step 3

Where of every patch one token stays that has read it, its carrier, the patch is seen within its own step alone, and
the carrier by all that comes later: what is watched from the next step on, words at once, as the patch itself would be
if it had stayed. In a stream the patch is gone by then; in a whole sample tokens are marked PATCH and CARRIER. With a
carrier (c) behind each of two patches of two tokens:

           V1 V1 c1 V2 V2 c2 a1
        V1  1  .  .  .  .  .  .
        V1  1  1  .  .  .  .  .     c1 is not fed yet
        c1  1  1  1  .  .  .  .
        V2  .  .  1  1  .  .  .     what the first patch was is known by c1 alone
        V2  .  .  1  1  1  .  .
        c2  .  .  1  1  1  1  .
        a1  .  .  1  .  .  1  1

Source: arXiv 2601.06843, section 3; checked against recorded masks in tests/golden. Thoughts: ours; arXiv 2603.11896
has notes of this kind in the place of what is said. Carriers: arXiv 2503.09387.
"""

WATCHED, SAID, THOUGHT = 0, 1, 2
PATCH, CARRIER = 4, 8  # marks of tokens that are WATCHED, added to it in whole samples with carriers

# What may be no more in the key than in the query: its place in the stream, its video step against the newest one that
# the query may see, or the step at which the key itself is fed, which must be past.
ORDER, STEP, PAST = "order", "step", "past"
SEES = {  # stream -> the streams that its tokens see, and how far
    WATCHED: {WATCHED: ORDER},
    SAID: {WATCHED: STEP, SAID: ORDER, THOUGHT: PAST},
    THOUGHT: {WATCHED: STEP, THOUGHT: ORDER},
}

# And where there are carriers: the key's step must be no earlier than the query's own, or it must be past.
OWN, BEFORE = "own", "before"
SEES_CARRIED = {  # stream or mark -> those that its tokens see, and how far by all of these
    WATCHED: {WATCHED: (ORDER,), PATCH: (ORDER, OWN), CARRIER: (ORDER, BEFORE)},
    PATCH: {WATCHED: (ORDER,), PATCH: (ORDER, OWN), CARRIER: (ORDER, BEFORE)},
    CARRIER: {WATCHED: (ORDER,), PATCH: (ORDER, OWN), CARRIER: (ORDER,)},
    SAID: {WATCHED: (STEP,), CARRIER: (STEP,), SAID: (ORDER,), THOUGHT: (PAST,)},
    THOUGHT: {WATCHED: (STEP,), CARRIER: (STEP,), THOUGHT: (ORDER,)},
}


def can_see(q_stream, q_order, q_sees, k_stream, k_order, k_step, k_sees=None):
    """May a query token attend to a key token? Elementwise over broadcastable integers or tensors; SEES in one line.

    Args:
        q_stream, k_stream: WATCHED, SAID or THOUGHT.
        q_order, k_order: index of the token in its stream, in order of arrival.
        q_sees: newest video step (0-based) that a said or thought query may see.
        k_step: video step at which a watched key arrives (0 for the prompt; the suffix counts to the last step).
        k_sees: newest video step that a thought key may see, at which it is fed; None: no key is a thought.
    Returns:
        bool, broadcast shape.
    """
    earlier = (q_stream == k_stream) & (k_order <= q_order)
    watched = (q_stream != WATCHED) & (k_stream == WATCHED) & (k_step <= q_sees)
    if k_sees is None:
        return earlier | watched
    return earlier | watched | (q_stream == SAID) & (k_stream == THOUGHT) & (k_sees < q_sees)


def can_see_carried(q_stream, q_order, q_sees, k_stream, k_order, k_step, k_sees=None):
    """`can_see` where patches have carriers: SEES_CARRIED in two lines. Of what is watched, `q_sees` is its own step.

    Args:
        q_stream, k_stream: as of `can_see`, with PATCH or CARRIER added where a token is such.
    """
    streams = q_stream % PATCH, k_stream % PATCH
    watches, own = streams[0] == WATCHED, k_step >= q_sees
    stays = (k_stream != PATCH) | (watches & own)
    has_come = (k_stream != CARRIER) | (q_stream == CARRIER) | (streams[0] != WATCHED) | (k_step < q_sees)
    return can_see(streams[0], q_order, q_sees, streams[1], k_order, k_step, k_sees) & stays & has_come
