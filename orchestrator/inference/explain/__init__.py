"""Explanation of trained networks: pictures of what their layers have learned, and the numbers behind them."""

from orchestrator.inference.explain.explanation import Explanation, explain_network

__all__ = ["Explanation", "explain_network"]
