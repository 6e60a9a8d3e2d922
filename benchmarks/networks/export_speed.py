"""Saving through frozen spans: file sizes and times of exported networks, with cut windows and with full ones.

The heads of every layer have the spans given, as a trained network might; weights are random.

    python benchmarks/networks/export_speed.py --format onnx --spans 0 0 0.1 0.6
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import models
from orchestrator.inference.export import FORMATS, export_network
from orchestrator.inference.images import NetworkImages
from orchestrator.inference.trained_network import TrainedNetwork

NETWORK = "adaptive_resnet26_medium"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    parser.add_argument("--spans", type=float, nargs=4, default=[0.0, 0.0, 0.1, 0.6], help="z of each head")
    parser.add_argument("--side", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    torch.manual_seed(0)
    network = models.create_model(NETWORK, num_classes=10, in_chans=3, image_size=given.side).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".span"):
                parameter.copy_(torch.tensor(given.spans))
    network.class_names, network.trained_image_size = tuple("0123456789"), given.side
    network.pixel_mean = network.pixel_std = (0.5, 0.5, 0.5)
    inputs = torch.randn(given.batch, 3, given.side, given.side)
    images = NetworkImages(inputs, inputs, torch.zeros(len(inputs)), tuple(range(len(inputs))), "noise", "test")
    trained = TrainedNetwork(network=network, label="random", name=NETWORK, options={}, epoch=0, checkpoint_bytes=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{FORMATS[given.format].suffix}"
        found = export_network(trained, images, format_name=given.format, path=path, timed_batch=given.batch)
    assert found.uncut_bytes is not None
    print(f"{given.format}, spans {given.spans}: layer 0 {found.windows[0]}, difference {found.difference:.1e}")
    print(f"file {found.bytes / 1e6:.2f} MB, uncut {found.uncut_bytes / 1e6:.2f} MB")
    print(", ".join(f"{name} {taken:.1f} ms" for name, taken in found.times_ms.items()), f"for {given.batch} images")


if __name__ == "__main__":
    main()
