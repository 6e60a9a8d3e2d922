"""Entry point of `python -m orchestrator`, which is `spatialsweep` without an installed command, for Ray jobs."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
