"""Streaming in chat turns: a second of video as a user turn, its words as the answer (StreamingVLM, LiveCC)."""
