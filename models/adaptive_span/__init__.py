"""Networks with adaptive attention span, and their fixed-window and convolutional controls."""
