"""Report of a sweep: one self-contained HTML file with its settings, results and costs."""

from orchestrator.report.page import write_report

__all__ = ["write_report"]
