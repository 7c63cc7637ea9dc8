"""How many images are processed together."""

_PIXELS_PER_PASS = 1 << 22  # 48 MiB of float32 input in RGB, and a multiple of that of activations


def images_together(image_size: int, pixels: int) -> int:
    """Return how many square images are processed together: as many as `pixels` pixels hold, and at least one.

    Memory is then bounded whatever their size. No result may depend on the number.

    Args:
        image_size: height and width of each image in pixels.
        pixels: budget of the computation, over all images.
    """
    return max(1, pixels // image_size**2)


def images_per_pass(image_size: int, most: int) -> int:
    """Return how many square images go through a network together, without gradients: `most`, or fewer if large.

    Args:
        image_size: height and width of each image in pixels.
        most: the number where memory allows it.
    """
    return min(most, images_together(image_size, _PIXELS_PER_PASS))
