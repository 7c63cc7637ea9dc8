"""The pipeline in a repository of the user's: its files, and the code that each stage depends on."""
