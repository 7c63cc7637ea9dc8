"""Logits of each network for the test images."""
