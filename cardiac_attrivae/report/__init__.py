"""Tables, figures and the page. Nothing here computes a score, or needs torch."""
