"""Starts processes. Nothing here imports torch, so that a mistake is reported in a fraction of a second."""
