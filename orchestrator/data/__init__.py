"""Datasets: preparation, opening and description, and the order in which workers read images."""

from orchestrator.data.batches import Indices, draw_fraction, epoch_batches, split_validation, worker_share
from orchestrator.data.datasets import (
    DatasetFacts,
    current_hash,
    dataset_facts,
    list_datasets,
    locate_dataset,
    open_any_dataset,
    open_dataset,
    prepare_dataset,
)
from orchestrator.data.description import describe_dataset
from orchestrator.data.image_dataset import ImageDataset, PixelImages

__all__ = [
    "DatasetFacts",
    "ImageDataset",
    "Indices",
    "PixelImages",
    "current_hash",
    "dataset_facts",
    "describe_dataset",
    "draw_fraction",
    "epoch_batches",
    "list_datasets",
    "locate_dataset",
    "open_any_dataset",
    "open_dataset",
    "prepare_dataset",
    "split_validation",
    "worker_share",
]
