"""Frames in, words out: one stream at a time."""
