"""Tables, figures and the page. Nothing here computes a score, or needs torch.

What draws writes a PNG to ``path``, whose folders are created, and raises a ValueError where its
arguments do not fit each other. Slices are (N, H, W) in [0, 1], masks canonical and of that shape.
"""
