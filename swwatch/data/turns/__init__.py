"""Conversations in chat turns: prompts, transcripts, training samples."""
