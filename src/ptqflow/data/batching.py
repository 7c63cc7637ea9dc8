"""How many images are processed together."""


def images_together(image_size: int, pixels: int) -> int:
    """Return how many square images are processed together: as many as `pixels` pixels hold, and at least one.

    Memory is then bounded whatever their size. No result may depend on the number.

    Args:
        image_size: height and width of each image in pixels.
        pixels: budget of the computation, over all images.
    """
    return max(1, pixels // image_size**2)
