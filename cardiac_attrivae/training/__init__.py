"""From a pipeline to a trained run."""
