"""Readers of annotated images: COCO, ADE20K, Pascal VOC, own images, and scenes of digits."""
