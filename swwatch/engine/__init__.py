"""Room 4: streaming engines. Token ids in and out; no text, no HTTP, an injected clock."""
