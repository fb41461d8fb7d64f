"""Protocols and figures: how good a model is on a set."""
