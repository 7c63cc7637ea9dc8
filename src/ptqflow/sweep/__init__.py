"""Experiments over many hosts: a grid of params, each combination a task of Ray in a clone of the same commit."""
