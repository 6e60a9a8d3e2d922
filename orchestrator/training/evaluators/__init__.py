"""Metrics of detection and segmentation, exact over any number of workers.

Every rank calls `update(predictions, targets)` for its images, then `all_reduce(workers)` once, which is a collective
operation, then `compute()`, which returns the same metrics by name on all ranks. Predictions and targets have one entry
for every image, at its original size. An image is known by its `image_id` and counts once, also where several ranks
evaluate it, as with the samples that fill the last batch of a distributed sampler. A metric that no annotation defines
is NaN.
"""
