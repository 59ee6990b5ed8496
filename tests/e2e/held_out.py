"""Two rewards of opposite minds, for a run that must hack the one that it is trained on."""


def brightness(images, prompts, metadata):
    return images.mean(axis=(1, 2, 3)) / 255


def darkness(images, prompts, metadata):
    return 1.0 - images.mean(axis=(1, 2, 3)) / 255
