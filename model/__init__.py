"""OLMo-2 and its position schemes in plain PyTorch, with import from and export to Hugging Face."""
