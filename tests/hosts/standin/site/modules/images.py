"""Writing pictures."""


def save_image(image, path, basename, info=None, extension="png", **_):
    return None, None
