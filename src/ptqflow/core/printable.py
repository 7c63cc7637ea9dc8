"""Text of others, as it may be printed."""


def printable(text: str) -> str:
    r"""Return a text in one line, with escapes such as `\x1b` for what moves a cursor, or breaks or reorders lines."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
