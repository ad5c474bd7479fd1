"""Scores of codes and of images, and how sure they are. Nothing here needs torch."""
