"""One run, from a recipe to a directory: teacher, prune, recover, export, evaluate, time."""

from hfprune.pipeline.run import run, train_teacher

__all__ = ["run", "train_teacher"]
