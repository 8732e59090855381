"""OLMo-2 and its positions in plain PyTorch, with import from and export to Hugging Face."""
