"""`python -m orchestrator` is `spatialsweep`; it needs no installed command, which suits `ray job submit`."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
