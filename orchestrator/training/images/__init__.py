"""Images on their way to a network: placement, loading, augmentation and batches."""
