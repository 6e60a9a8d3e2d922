"""Citations of papers: the bodies of the five papers were not at hand, so no section of one is named."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PAPER = r"(?:et al\.|&\s\w+|and\s\w+|,\s\w+,\s\w+)\s(?:19|20)\d\d\b"
_PLACE = r"\b(?:sections?|appendix|equations?|tables?)\s[0-9A]\b"
CITED = re.compile(rf"{_PAPER}.{{0,120}}?{_PLACE}", re.DOTALL | re.IGNORECASE)
PLACES = ("models/**/*.py", "models/**/*.md", "search_spaces/*.py", "orchestrator/inference/**/*.py", "docs/**/*.md")


def test_no_section_of_a_paper_is_cited() -> None:
    files = [path for place in PLACES for path in ROOT.glob(place)]
    found = {str(path.relative_to(ROOT)): hit[0] for path in files if (hit := CITED.search(path.read_text("utf-8")))}
    assert len(files) > 80
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "Yang et al. 2021, section 3.",
        "Go & Ryu 2023,\nsection 3.1",
        "Parker, Kumar, Roussy 2020 (arXiv 1), appendix A.3",
    ],
)
def test_a_section_is_found(text: str) -> None:
    assert CITED.search(text)
    assert not CITED.search(text.rsplit(",", maxsplit=1)[0])
