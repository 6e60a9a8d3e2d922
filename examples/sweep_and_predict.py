"""Run a sweep on handwritten digits, and classify images with its best network.

    python examples/sweep_and_predict.py

Results go to runs/predict. A name is used once: remove it with `spatialsweep delete predict` before a second run.
"""

from __future__ import annotations

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import nn

from orchestrator import SweepConfig, run_sweep

SWEEP = SweepConfig(
    name="predict",
    dataset={"name": "digits"},
    search={
        "model": ["sb_resnet29_cifar", "conv_resnet26_small"],
        "lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
        "bias_channels": {"type": "int", "low": 1, "high": 6, "when": {"model": "sb_resnet29_cifar"}},
    },
    training={"epochs": 4, "global_batch_size": 32, "optimizer": "adamw"},
    trials=4,
)


def classify(model: nn.Module, pixels: torch.Tensor) -> list[str]:
    """Return the class names of images.

    Args:
        model: A network from `load_model`, which carries the statistics and class names of its dataset.
        pixels: Images (B, C, H, W) in [0, 1].
    """
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (model.pixel_mean, model.pixel_std))
    with torch.inference_mode():
        logits = model((pixels - mean) / std)
    return [model.class_names[index] for index in logits.argmax(dim=1)]


def main() -> None:
    """Run the sweep, then show the predictions for ten images."""
    result = run_sweep(SWEEP, console=Console())  # without a console it is silent
    best = result.best
    if best is None:
        raise SystemExit(f"no trial of {result.name} has finished an epoch")
    print(f"trial {best.number}: val/top1 {best.value:.3f}, test/top1 {best.test_top1:.3f}, {dict(best.params)}")

    digits = load_digits()
    images = torch.tensor(digits.images[:10] / 16, dtype=torch.float32).unsqueeze(1)
    print("images:     ", *digits.target[:10])
    print("predictions:", *classify(best.load_model(), images))


if __name__ == "__main__":
    main()
