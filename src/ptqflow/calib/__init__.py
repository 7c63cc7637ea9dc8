"""Activation statistics, collected on training images."""
