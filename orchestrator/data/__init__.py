"""Images as Arrow files, and the order in which workers see them."""

from orchestrator.data.arrow_images import ArrowImages, ImageSplit, open_images, write_images
from orchestrator.data.batches import Indices, epoch_batches, split_validation, worker_share
from orchestrator.data.datasets import DatasetSpec, dataset_spec, list_datasets, prepare_dataset

__all__ = [
    "ArrowImages",
    "DatasetSpec",
    "ImageSplit",
    "Indices",
    "dataset_spec",
    "epoch_batches",
    "list_datasets",
    "open_images",
    "prepare_dataset",
    "split_validation",
    "worker_share",
    "write_images",
]
