"""OpenAI's two forms, HTTP and realtime, over the sessions and limits of our own protocol."""
