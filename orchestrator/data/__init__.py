"""Images as Arrow files, and the order in which workers see them."""

from orchestrator.data.arrow_images import ArrowImages, ImageSplit, open_images, write_images
from orchestrator.data.batches import Indices, epoch_batches, split_validation, worker_share
from orchestrator.data.datasets import (
    DatasetFacts,
    DatasetSpec,
    dataset_facts,
    dataset_spec,
    list_datasets,
    locate_dataset,
    open_dataset,
    prepare_dataset,
)
from orchestrator.data.description import describe_dataset

__all__ = [
    "ArrowImages",
    "DatasetFacts",
    "DatasetSpec",
    "ImageSplit",
    "Indices",
    "dataset_facts",
    "dataset_spec",
    "describe_dataset",
    "epoch_batches",
    "list_datasets",
    "locate_dataset",
    "open_dataset",
    "open_images",
    "prepare_dataset",
    "split_validation",
    "worker_share",
    "write_images",
]
