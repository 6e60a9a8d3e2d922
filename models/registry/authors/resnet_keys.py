"""Keys of residual networks: ours, split into block and part, in the names of the authors."""

import re
from collections.abc import Mapping

__all__ = ["TORCHVISION_PARTS", "rename"]

TORCHVISION_PARTS: Mapping[str, str] = {
    "stem.conv": "conv1",
    "stem.bn": "bn1",
    "reduce.conv": "conv1",
    "reduce.bn": "bn1",
    "expand.conv": "conv3",
    "expand.bn": "bn3",
    "shortcut.conv": "downsample.0",
    "shortcut.bn": "downsample.1",
    "head.fc": "fc",
}
"""Parts around the spatial operator in code that grew out of torchvision's ResNet; stages are `layer1` and so on."""

BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(.+)")


def rename(key: str, *, stage: str, parts: Mapping[str, str]) -> str:
    """Return the authors' key for one of ours.

    Args:
        key: Our key.
        stage: Prefix of their stage, with `{stage}`, such as `layers.{stage}`; counted from 0, `{next_stage}` from 1.
        parts: Their path for the longest prefix of ours that is listed; ours within a block starts at the
            block.

    Raises:
        KeyError: No listed prefix fits, which is a part missing from the table.
    """
    match = BLOCK.fullmatch(key)
    lead, path = "", key
    if match is not None:
        index = int(match[1])
        lead = f"{stage.format(stage=index, next_stage=index + 1)}.{match[2]}."
        path = match[3]
    fitting = [prefix for prefix in parts if path == prefix or path.startswith(prefix + ".")]
    if not fitting:
        raise KeyError(f"no name of the authors is known for {key!r}")
    longest = max(fitting, key=len)
    return lead + parts[longest] + path[len(longest) :]
