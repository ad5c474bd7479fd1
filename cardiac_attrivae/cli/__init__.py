"""The commands."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it; click would end with 1,
an answer of verify."""
