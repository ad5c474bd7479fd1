"""Runs for other programs."""
