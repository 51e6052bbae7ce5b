"""Draw docs/schedule.svg and docs/checkpoint.svg, with the style of draw_method.py."""
import sys
from typing import Dict, List, Optional

from draw_method import TARGET, arrow, svg, text

FOLDER = TARGET.parent


def draw_schedule() -> str:
    """Return the factor of the CCA weight over training as SVG."""
    left, right, top, low = 70, 680, 60, 230
    half, end = (left + (right - left) * part for part in (0.5, 0.9))
    return svg(720, 300, 'The factor of the CCA weight over training', [
        text(left, 34, 'factor of the CCA weight', 'muted', 'start'),
        *arrow((left, low), (right + 16, low)),
        f'<path d="M{left} {low}V{top - 8}" class="line"/>',
        text(left - 12, top + 7, '1', 'muted', 'end'),
        text(left - 12, low + 7, '0', 'muted', 'end'),
        f'<polyline points="{left},{top} {half:g},{top} {end:g},{low} {right},{low}" '
        'class="cca" style="fill:none"/>',
        *(f'<path d="M{x:g} {top}V{low}" class="rule"/>' for x in (half, end)),
        text(left, 262, 'start', 'muted', 'start'), text(half, 262, '50 %', 'muted'),
        text(end, 262, '90 %', 'muted'), text(right, 262, 'end', 'muted'),
        text((left + half) / 2, 100, 'alpha is learned'), text((half + end) / 2, 288, 'CCA leaves'),
        text((left + half) / 2, 126, 'CCA runs beside it'),
        text(right - 4, 204, 'gone', 'muted', 'end')])


def _box(x: float, y: float, width: float, lines: List[str], style: str) -> List[str]:
    return [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="68" rx="8" class="{style}"/>',
            *(text(x + width / 2, y + 41 - 12 * (len(lines) - 1) + 24 * i, line)
              for i, line in enumerate(lines))]


def draw_checkpoint() -> str:
    """Return the life of a checkpoint as SVG."""
    rows = (30, 126, 222, 318)
    targets = (['test, predict', 'metrics, pictures'], ['publish_model', 'weights and hash'],
               ['fold', 'deployment form'], ['export', 'ONNX, .pt2, .pt'])
    middle = 208
    shapes = [*_box(24, middle - 34, 150, ['train'], 'ffn'),
              *arrow((174, middle), (222, middle)),
              *_box(224, middle - 34, 176, ['checkpoint', 'weights, state'], 'cca'),
              f'<polyline points="312,{middle + 34} 312,{middle + 100} 99,{middle + 100} '
              f'99,{middle + 48}" class="line"/>',
              f'<path d="M99 {middle + 36}l-6 12h12z" class="head"/>',
              text(205, middle + 124, '--resume, --pretrained', 'muted')]
    for y, lines in zip(rows, targets):
        shapes += [*arrow((400, middle), (440, middle), (440, y + 34), (486, y + 34)),
                   *_box(488, y, 208, lines, 'ffn')]
    return svg(720, 416, 'The life of a checkpoint', shapes)


def draw() -> Dict[str, str]:
    """Return the pictures by file name."""
    return {'schedule.svg': draw_schedule(), 'checkpoint.svg': draw_checkpoint()}


def main(argv: Optional[List[str]] = None) -> None:
    """Write the pictures, or with ``--check`` fail if a file is another."""
    arguments = sys.argv[1:] if argv is None else argv
    for name, picture in draw().items():
        path = FOLDER / name
        if not arguments:
            path.write_text(picture, encoding='utf-8')
        elif not path.is_file() or path.read_text(encoding='utf-8') != picture:
            sys.exit(f'error: {name}: not what draw_concepts.py draws; run it')


if __name__ == '__main__':
    main()
