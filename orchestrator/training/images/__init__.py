"""Images of the training loop: placement, loading, augmentation and batches."""
