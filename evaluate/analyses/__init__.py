"""Analyses of what a model does inside: attention on parts of a prompt, patterns of positions, layers without them."""
