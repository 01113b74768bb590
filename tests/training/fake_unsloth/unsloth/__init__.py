"""A package in unsloth's place that must be imported as early as unsloth."""

import os
import sys

late = {"transformers", "peft", "trl"} & set(sys.modules)
if late:
    raise ImportError(f"unsloth must come before {late}")
if os.environ.get("FAKE_UNSLOTH") == "broken":
    raise NotImplementedError("no such GPU")

from unsloth.models import FastLanguageModel as FastLanguageModel  # noqa: E402
