"""Caption metrics by pycocoevalcap's definitions."""
