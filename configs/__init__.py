"""Variants, recipes and experiments as Hydra YAML; the defaults are those of the dataclasses."""
