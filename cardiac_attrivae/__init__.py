"""Generative models of the heart whose latent dimensions mean something."""

__version__ = "0.1.0"
