"""All networks of the zoo by name; each is also an attribute, as `model.name` asks for it."""

from zoo.body import Builder
from zoo.composed import ARITHMETIC, ATTENTION, CODE, HEADS, MERGES, SHAPES
from zoo.families import FAMILIES
from zoo.layers import ACTIVATIONS, CONVOLUTIONS, INTERPOLATIONS, NORMALIZATIONS, PADDINGS, POOLINGS

GROUPS: dict[str, dict[str, Builder]] = {
    "Families": FAMILIES,
    "Activations": ACTIVATIONS,
    "Normalizations": NORMALIZATIONS,
    "Poolings": POOLINGS,
    "Paddings": PADDINGS,
    "Convolutions and linear layers": CONVOLUTIONS,
    "Interpolations": INTERPOLATIONS,
    "Merges": MERGES,
    "Attention": ATTENTION,
    "Heads": HEADS,
    "Arithmetic": ARITHMETIC,
    "Shapes": SHAPES,
    "Code": CODE,
}
NETWORKS = {name: build for networks in GROUPS.values() for name, build in networks.items()}


def __getattr__(name: str) -> Builder:
    try:
        return NETWORKS[name]
    except KeyError:
        raise AttributeError(name) from None
