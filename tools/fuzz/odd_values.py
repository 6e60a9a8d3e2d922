"""Odd values, keys and pieces of YAML that the fuzz test of configurations puts into sweep files."""

from __future__ import annotations

from typing import Any

# fmt: off
NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 10, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63), 10**400, 0.0, -0.0, 0.1, 0.9,
    1.0, 1e-12, 1e-320, 1e308, -1e308, float("inf"), float("nan"), "", " ", "x", "null", "~", "true", "1:30", "010",
    "1e3", "digits", "sgd", "adamw", "tpe", "grid", "pbt", "none", "papers", "lsas", "spatial_zoo",
    "conv_resnet26_small", "adaptive_resnet26_small", "lsas_resnet164_cifar", "val/top1", "params", "params <= 2e6",
    "val/top1 >= .9 ", "<=", "2h", "1h30m", "9" * 4000, "a/b", "/", "a//lr", "x" * 5000, "\0", "\x1b[31m", "\ud800",
    "\u202e", "[red]", "[/]", "sqlite:///x.db", "sqlite://", "http://[", "postgresql://u:p@h:x/d", "://", "s3://",
    "../..", "~", "rand-m9-mstd0.5", [], {}, [[]], [{}], [None], {"": 1}, {1: 2}, {None: None}, (1, 2),
    {"type": "float"}, {"choices": []}, {"value": {}}, {"type": "float", "low": 0, "high": 0.9, "step": 0.3},
    {"type": "float", "low": 1e-9, "high": 1, "step": 1e-12}, {"type": "int", "low": 1, "high": 8},
    {"type": "int", "low": 1, "high": 2**60, "log": True}, {"choices": [1, 2]},
    {"type": "float", "low": -1e308, "high": 1e308}, {"value": 1, "when": {"model": "x"}},
    {"choices": [True, 1, 1.0]}, {"choices": [1, "a"], "when": {"lr": [1]}}, {"value": 3, "when": {"x": {}}},
    b"bytes", {1, 2}, object(), 1j,
)
KEYS = (
    "lr", "model", "when", "type", "low", "high", "step", "log", "choices", "value", "name", "uri", "self", "search",
    "space", "epochs", "optimizer", "sgd/lr", "adamw/lr", "workers", "target", "wall_clock", "objective", "metric",
    "sampler", "options", "trial_scheduler", "constraints", "try_first", "warm_start", "limits", "budget", "training",
    "global_batch_size", "decay_milestones", "order", "reduction", "max_span", "stages", "mode", "auto_augment",
    "[/x]",
)
PIECES = (
    "&a ", "*a", "<<: *a\n", "!!int ", "!!set ", "!!python/object:os.system ", "{", "}", "[", "]", ": ", "- ", "\t",
    "\n", "? ", "| ", ">-\n", "---\n", "...\n", "%YAML 1.1\n", "#", "'", '"', '"\\ud800"', '"\\x00"', "\0", "\ufeff",
    "\x85", "\u2028", "null", "~", "1:30", "0o17", "0x", "1_0", ".inf", ".nan", "yes", "2026-01-01", "=", "[" * 500,
    "9" * 5000, "name: t\n", "search: {lr: [0.1]}\n", "trials: 3\n", "space: lsas\n", "\r\n", " ", "-", "@", "`",
    "\u202e", "\ud7ff",
)
# fmt: on
