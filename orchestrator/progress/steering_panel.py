"""Buttons of a notebook that steer a running sweep: pause, resume or stop a trial, end the sweep.

They need ipywidgets, and a kernel that is free to answer them: another notebook, or the one that runs the sweep where
its kernel answers widgets in a thread of their own (ipykernel 7 with JupyterLab 4.4 or later).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import SpatialSweepError
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import read_history
from orchestrator.steering.client import end_sweep, pause_trial, resume_trial, stop_trial, sweep_folder
from orchestrator.steering.requests import SteeringError

MISSING = "Buttons that steer a sweep need ipywidgets: pip install 'spatialsweep[notebook]'"


class SteeringPanel:
    """Row of buttons for one sweep.

    Args:
        folder: Folder of the sweep.

    Attributes:
        widget: Widget to display.

    Raises:
        SteeringError: ipywidgets is not installed.
    """

    def __init__(self, folder: SweepFolder) -> None:
        widgets = _ipywidgets()
        self._folder = folder
        self._trials = widgets.Dropdown(description="trial", layout=widgets.Layout(width="14em"))
        self._answer = widgets.Label()
        actions: tuple[tuple[str, Callable[[], str]], ...] = (
            ("Pause", lambda: pause_trial(folder.path, self._chosen())),
            ("Resume", lambda: resume_trial(folder.path, self._chosen())),
            ("Stop", lambda: stop_trial(folder.path, self._chosen())),
            ("End sweep", lambda: end_sweep(folder.path)),
            ("Refresh", lambda: ""),
        )
        self.buttons = {name: self._button(widgets, name, action) for name, action in actions}
        self.widget = widgets.VBox([widgets.HBox([self._trials, *self.buttons.values()]), self._answer])
        self.refresh()

    @property
    def answer(self) -> str:
        """Answer to the newest request, as shown."""
        return str(self._answer.value)

    def show_trials(self, numbers: Sequence[int]) -> None:
        """Offer these trials; the chosen one stays chosen while it is among them.

        Args:
            numbers: Numbers of the running and paused trials.
        """
        if tuple(numbers) != tuple(self._trials.options):
            chosen = self._trials.value
            self._trials.options = tuple(numbers)
            if chosen in numbers:
                self._trials.value = chosen

    def refresh(self) -> None:
        """Offer the trials that the journal has as running or paused."""
        history = read_history(self._folder.journal)
        self.show_trials(sorted(number for number, trial in history.trials.items() if not trial.is_over))

    def _chosen(self) -> int:
        if self._trials.value is None:
            raise SteeringError("no trial is running or paused")
        return int(self._trials.value)

    def _button(self, widgets: Any, name: str, action: Callable[[], str]) -> Any:
        button = widgets.Button(description=name, layout=widgets.Layout(width="auto"))

        def click(_button: Any) -> None:
            try:
                self._answer.value = action()
                self.refresh()
            except SpatialSweepError as error:
                self._answer.value = str(error)

        button.on_click(click)
        return button


def steering_panel(sweep: str | Path, runs_dir: str | Path | None = None) -> Any:
    """Return a row of buttons that steer a running sweep, to be shown in a notebook.

    Args:
        sweep: Name or folder of the sweep.
        runs_dir: Folder of all results; None takes the default.

    Raises:
        SweepNameError: There is no such sweep.
        SteeringError: ipywidgets is not installed.
    """
    return SteeringPanel(sweep_folder(sweep, runs_dir)).widget


def answers_while_running() -> bool:
    """Return whether the kernel of this notebook answers widgets while a cell runs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return bool(getattr(getattr(shell, "kernel", None), "_supports_kernel_subshells", False))


def panel_while_running(folder: SweepFolder) -> SteeringPanel | str:
    """Return the buttons for the notebook that runs a sweep, or where they are to be had instead, in one line."""
    if not answers_while_running():
        return (
            f"Buttons that steer this sweep: in another notebook, from orchestrator import steering_panel; "
            f"steering_panel({str(folder.path)!r})"
        )
    try:
        return SteeringPanel(folder)
    except SteeringError as error:
        return str(error)


def _ipywidgets() -> Any:
    try:
        import ipywidgets
    except ImportError:
        raise SteeringError(MISSING) from None
    return ipywidgets
