"""No package unpickles untrusted files, since a pickle runs code of its author."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "models", "orchestrator", "search_spaces")
UNPICKLES = {
    *("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "dill.load"),
    *("ray.cloudpickle.load", "ray.cloudpickle.loads", "pd.read_pickle", "mlflow.pytorch.load_model"),
    *("dist.broadcast_object_list", "dist.all_gather_object", "dist.gather_object", "dist.scatter_object_list"),
    *("dist.recv_object_list", "torch.hub.load", "torch.hub.load_state_dict_from_url"),
}


def unpicklings(source: str) -> Iterator[str]:
    """Yield the calls that unpickle, or that do not forbid it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if (
                name in UNPICKLES
                or (name == "torch.load" and given.get("weights_only") != "True")
                or given.get("allow_pickle") == "True"
            ):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_package_unpickles() -> None:
    """Check all packages; CIFAR's pickles are parsed by orchestrator/data/sources/plain_pickles.py."""
    found = {
        str(path.relative_to(ROOT)): calls
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (calls := list(unpicklings(path.read_text())))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.loads(x)",
        "dist.broadcast_object_list(a, src=0)",
        "np.load(path, allow_pickle=True)",
        "mlflow.pytorch.load_model(uri)",
    ],
)
def test_every_way_to_unpickle_is_found(source: str) -> None:
    assert list(unpicklings(source)) == [f"line 1: {source}"]
