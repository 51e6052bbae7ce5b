"""Draw docs/method.svg, the picture of the method in the README; needs Python alone."""
import sys
from pathlib import Path
from typing import List, Optional, Tuple

TARGET = Path(__file__).resolve().parent.parent / 'docs' / 'method.svg'
WIDTH, HEIGHT = 720, 620
C = 32  # pixels that C channels take: the matrices are drawn to scale

# The picture has a background of its own, because a page may be dark where its reader's system
# is light. Circles and arrows are shapes, because a font may lack them.
_LIGHT = dict(back='#ffffff', ink='#1f2328', muted='#59636e', empty='#eaeef2', edge='#8c959f',
              ffn='#0969da', cca='#bc4c00')
_DARK = dict(back='#0d1117', ink='#f0f6fc', muted='#9aa4af', empty='#21262d', edge='#656c76',
             ffn='#4493f8', cca='#f0883e')


def _rules(colours: dict) -> str:
    return ('.back{{fill:{back}}} text{{fill:{ink}}} .muted{{fill:{muted}}} '
            '.empty{{fill:{empty};stroke:{edge}}} .full{{fill:{ffn}}} '
            '.line{{stroke:{ink};fill:none}} .head{{fill:{ink}}} .rule{{stroke:{edge}}} '
            '.ffn{{stroke:{ffn};fill:{back}}} .cca{{stroke:{cca};fill:{back}}}').format(**colours)


def text(x: float, y: float, text: str, style: str = '', anchor: str = 'middle') -> str:
    kind = f' class="{style}"' if style else ''
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{text}</text>'


def _rect(x: float, y: float, width: float, height: float, style: str, radius: int = 0) -> str:
    return (f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" '
            f'class="{style}"/>')


def _matrix(x: float, y: float, columns: int, rows: int, groups: int) -> List[str]:
    """Draw a weight matrix of ``rows`` by ``columns`` times C with its diagonal blocks filled."""
    width, height = columns * C, rows * C
    return [_rect(x, y, width, height, 'empty')] + [
        _rect(x + i * width / groups, y + i * height / groups, width / groups, height / groups,
              'full') for i in range(groups)]


def _ffn(x: float, middle: float, expansion: int, groups: int) -> List[str]:
    """Draw both matrices of an FFN, C -> E * C -> C, as they stand in ``W2 act(W1 x)``."""
    second = x + C + 56
    under = middle + expansion * C / 2 + 28
    return [
        *_matrix(x, middle - expansion * C / 2, 1, expansion, groups),
        *_matrix(second, middle - C / 2, expansion, 1, groups),
        *arrow((x + C + 10, middle), (second - 10, middle)),
        text(x - 12, middle + 7, 'C', 'muted', 'end'),
        text(x + C / 2, under, f'{expansion}C', 'muted'),
        text(second + expansion * C + 12, middle + 7, 'C', 'muted', 'start')]


def arrow(*points: Tuple[float, float]) -> List[str]:
    """Draw a line through points, with a head where it ends to the right."""
    x, y = points[-1]
    way = ' '.join(f'{a:g},{b:g}' for a, b in (*points[:-1], (x - 8, y)))
    return [f'<polyline points="{way}" class="line"/>',
            f'<path d="M{x:g} {y:g}l-12 -6v12z" class="head"/>']


def _box(x: float, middle: float, lines: List[str], style: str) -> List[str]:
    first = middle + 7 - 12 * (len(lines) - 1)
    return [_rect(x, middle - 34, 172, 68, style, 8),
            *(text(x + 86, first + 24 * i, line) for i, line in enumerate(lines))]


def svg(width: int, height: int, title: str, shapes: List[str]) -> str:
    """Return shapes as a picture that follows its reader's choice of light or dark."""
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f'<title>{title}</title>',
        '<style>text{font:20px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif} '
        '.title{font-size:22px;font-weight:600} .line{stroke-width:2} '
        f'.ffn,.cca{{stroke-width:2.5}} {_rules(_LIGHT)} '
        f'@media (prefers-color-scheme: dark){{{_rules(_DARK)}}}</style>',
        _rect(0, 0, width, height, 'back', 12), *shapes, '</svg>', ''])


def draw() -> str:
    """Return the picture as SVG."""
    weights, top, middle, low = 210, 478, 517, 556
    shapes = [
        text(150, 36, 'Dense FFN', 'title'), text(510, 36, 'Block-diagonal FFN', 'title'),
        text(150, 62, '8C\u00b2 weights, 4C wide', 'muted'),
        text(510, 62, '4C\u00b2 weights, 8C wide, 4 groups', 'muted'),
        *_ffn(42, weights, 4, 1), *_ffn(334, weights, 8, 4),
        f'<path d="M24 392H{WIDTH - 24}" class="rule"/>',
        text(205, 424, 'Training', 'title'), text(582, 424, 'Inference', 'title'),
        # Training: both branches, and their sum.
        text(24, middle + 6, 'x'),
        *arrow((38, middle), (54, middle), (54, top), (74, top)),
        *arrow((54, middle), (54, low + 20), (74, low + 20)),
        *_box(76, top, ['block-diagonal', 'FFN'], 'ffn'), *_box(76, low + 20, ['CCA'], 'cca'),
        text(258, top - 12, '\u00d7 \u03b1', anchor='start'),
        text(258, low + 8, '\u00d7 (1 \u2212 \u03b1)', anchor='start'),
        text(258, low + 46, 'falls to 0', 'muted', 'start'),
        f'<polyline points="248,{top} 372,{top} 372,{middle - 15}" class="line"/>',
        f'<polyline points="248,{low + 20} 372,{low + 20} 372,{middle + 15}" class="line"/>',
        f'<circle cx="372" cy="{middle}" r="15" class="line"/>',
        f'<path d="M364 {middle}h16M372 {middle - 8}v16" class="line"/>',
        *arrow((387, middle), (408, middle)), text(420, middle + 6, 'y'),
        # Inference: what is left.
        f'<path d="M444 410V{HEIGHT - 24}" class="rule"/>',
        text(464, middle + 6, 'x'), *arrow((474, middle), (494, middle)),
        *_box(496, middle, ['block-diagonal', 'FFN'], 'ffn'),
        *arrow((668, middle), (688, middle)), text(700, middle + 6, 'y'),
        text(582, low + 46, 'CCA is dropped', 'muted')]
    return svg(WIDTH, HEIGHT, 'The SCHEME channel mixer: a block-diagonal FFN, with channel '
               'covariance attention (CCA) beside it in training', shapes)


def main(argv: Optional[List[str]] = None) -> None:
    """Write the picture, or with ``--check`` fail if the file is another."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments not in ([], ['--check']):
        sys.exit(f'usage: draw_method.py [--check]; found {" ".join(arguments)}')
    if not arguments:
        TARGET.write_text(draw(), encoding='utf-8')
    elif not TARGET.is_file() or TARGET.read_text(encoding='utf-8') != draw():
        sys.exit(f'error: {TARGET.name}: not what this script draws; '
                 '`python .dev_scripts/draw_method.py` writes it')


if __name__ == '__main__':
    main()
