"""Metrics of detection and segmentation, exact over any number of workers."""
