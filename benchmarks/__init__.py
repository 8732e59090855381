"""Measurements behind the claims in the README and docs: each file is a command."""
