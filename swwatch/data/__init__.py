"""Room 2: annotations and filters, video frames, prompts, collation. Imports the rules only."""
