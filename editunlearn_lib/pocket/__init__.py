"""The embedded model: its corpus, its training and its weights."""
