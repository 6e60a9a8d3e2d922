"""Error of a checkpoint that does not fit, with at most ten of its entries in the text."""

__all__ = ["AuthorsCheckpointError", "printable"]

MOST_NAMED = 10
_LONGEST = 120


def printable(text: object) -> str:
    """Return a text of a file for a message: ASCII, on one line, cut when long."""
    shown = ascii(text)
    shown = shown[1:-1] if isinstance(text, str) else shown
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


class AuthorsCheckpointError(ValueError):
    """Checkpoint that cannot be read or does not fit the network.

    The text names at most ten entries and counts the rest; the attributes hold all of them.

    Args:
        problem: Problem, when it is not about single entries.
        missing: Entries the network needs and the checkpoint lacks, under the authors' names.
        unexpected: Entries that the network has no place for.
        wrong_shape: Entry, shape needed, shape found.
    """

    def __init__(
        self,
        problem: str = "the checkpoint does not fit the network",
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (),
    ) -> None:
        self.missing, self.unexpected, self.wrong_shape = missing, unexpected, wrong_shape
        faults = [f"wrong shape: {printable(key)}: needs {need}, got {got}" for key, need, got in wrong_shape]
        faults += [f"missing: {printable(key)}" for key in missing]
        faults += [f"unexpected: {printable(key)}" for key in unexpected]
        named = [f"  {fault}" for fault in faults[:MOST_NAMED]]
        if len(faults) > MOST_NAMED:
            counts = {"of a wrong shape": wrong_shape, "missing": missing, "unexpected": unexpected}
            totals = ", ".join(f"{len(found)} {what}" for what, found in counts.items() if found)
            named.append(f"  and {len(faults) - MOST_NAMED} more; altogether {totals}")
        super().__init__("\n".join([problem, *named]))
