"""The network before it is trained: its card, and what would be found out after the training."""
