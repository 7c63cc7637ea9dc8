"""A repository of its own for each test."""

from reproduced import repository, reproduced

__all__ = ["repository", "reproduced"]
