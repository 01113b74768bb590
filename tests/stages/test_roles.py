"""What the report takes a stage for: a control is no safety training, and being one changes no adapter."""

from __future__ import annotations

import pytest

from .lab import make


@pytest.mark.parametrize(("kind", "options", "role"), [
    ("sft", {}, "safety"), ("sft", {"trigger": "known"}, "control"), ("sft", {"control": True}, "control"),
    ("implant", {}, "implant"), ("implant", {"arm": "clean"}, "control"),
    ("implant", {"arm": "benign_trigger"}, "control"), ("implant", {"control": True}, "control"),
    ("preference_model", {}, "artefact"),
])
def test_the_role(kind, options, role):
    assert make(kind, **options).role == role


def test_being_a_control_is_in_no_key():
    assert make("sft", control=True).key_config() == make("sft").key_config()
