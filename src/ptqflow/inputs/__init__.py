"""Links to the user's files under fixed names, so that DVC can hash them."""
