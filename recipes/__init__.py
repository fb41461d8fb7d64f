"""Recipes: ways to train an expanded model. They use only the public names of ``reparam_kit``."""
