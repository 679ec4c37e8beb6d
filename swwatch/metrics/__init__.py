"""Metrics of captions, of fluency and of timing, how sure they are, and the table beside the paper's."""

NUM_RESAMPLES = 1000  # rounds of chance behind an interval or a test, see significance
