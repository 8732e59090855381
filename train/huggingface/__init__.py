"""Runs and checkpoints in and out of Hugging Face: what model/ needs to be told about them."""
