"""The report of a sweep: one HTML file that needs no network and tells what was asked, found and spent."""

from orchestrator.report.page import write_report

__all__ = ["write_report"]
