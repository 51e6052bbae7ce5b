"""Draw the figures of all studies and write their tables into docs/evidence.md."""
from pathlib import Path

from study import draw_studies

STUDIES = Path(__file__).resolve().parent

if __name__ == '__main__':
    print(f'written: {", ".join(draw_studies(STUDIES, STUDIES.parent / "docs" / "evidence.md"))}')
