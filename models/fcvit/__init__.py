"""FCViT: a convolutional network with the layout of a vision transformer and an explicit global context."""
