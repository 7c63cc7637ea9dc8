"""Training: the recipe, the batches it sees, and how a run survives being killed."""
