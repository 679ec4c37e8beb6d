"""Commentary on long and short sports videos: made by sessions in chat turns, compared by a judge."""
