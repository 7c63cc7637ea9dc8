"""How fast a network is in each runtime, and what it takes of memory."""
