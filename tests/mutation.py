"""Values and bytes that nobody means, at random."""

import random
from collections.abc import Callable

TEXTS = [
    "",
    " ",
    "null",
    "no",
    "\0",
    "\x1b[2K",
    "../../etc/passwd",
    "a" * 10_000,
    "ü",
    "\u202e",
    "${HOME}",
    "*",
    "[",
    "{}",
]
NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 1e-320, 1e308, float("inf"), float("nan"), True]


def hostile(random_: random.Random, depth: int = 3) -> object:
    """Return a value of any type, some nested."""
    kinds: list[Callable[[], object]] = [
        lambda: random_.choice(TEXTS),
        lambda: random_.choice(NUMBERS),
        lambda: None,
        lambda: random_.uniform(-1e3, 1e3),
        lambda: random_.randrange(-100, 5000),
    ]
    if depth:
        kinds.append(lambda: [hostile(random_, depth - 1) for _ in range(random_.randrange(4))])
        kinds.append(lambda: {f"k{i}": hostile(random_, depth - 1) for i in range(random_.randrange(4))})
    return random_.choice(kinds)()


def mutate(data: bytes, random_: random.Random) -> bytes:
    """Flip, cut, repeat, overwrite or insert, once or some times."""
    content = bytearray(data)
    for _ in range(random_.choice([1, 1, 2, 5, 50])):
        place = random_.randrange(len(content) or 1)
        match random_.randrange(5):
            case 0:
                content[place : place + 1] = bytes([random_.randrange(256)])
            case 1 if len(content) > 16:
                del content[place:]
            case 2:
                content[place:place] = content[place : place + random_.randrange(64)]
            case 3:
                content[place : place + 4] = random_.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\1\0"])
            case _:
                content[place:place] = random_.randbytes(random_.randrange(1, 16))
    return bytes(content)
