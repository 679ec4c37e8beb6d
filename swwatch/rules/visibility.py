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

Source: arXiv 2601.06843, section 3; checked against recorded masks in tests/golden.
"""

WATCHED, SAID = 0, 1


def can_see(q_stream, q_order, q_sees, k_stream, k_order, k_step):
    """May a query token attend to a key token? Elementwise over broadcastable integers or tensors.

    Args:
        q_stream, k_stream: WATCHED or SAID.
        q_order, k_order: index of the token in its stream, in order of arrival.
        q_sees: newest video step (0-based) that a said query may see.
        k_step: video step at which a watched key arrives (0 for the prompt; the suffix counts to the last step).
    Returns:
        bool, broadcast shape.
    """
    earlier = (q_stream == k_stream) & (k_order <= q_order)
    watched = (q_stream == SAID) & (k_stream == WATCHED) & (k_step <= q_sees)
    return earlier | watched
