"""`HFPruneTrainer`, its checkpoints, and what it learns from a teacher."""
