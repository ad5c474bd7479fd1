"""From files of a scanner to a slice store."""
