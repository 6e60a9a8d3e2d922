"""Augmentation of images together with their boxes, masks and class maps, and the way back to the original size."""
