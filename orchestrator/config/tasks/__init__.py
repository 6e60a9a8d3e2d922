"""Facts of the tasks that a sweep may train: metrics, losses and settings; their code is in `training/tasks`."""
