"""What every stage uses: errors, params, artifacts, paths, and the processes that share a stage's work."""
