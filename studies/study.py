"""Tables and figures of studies, from the results that a sweep has kept."""
import math
import re
import runpy
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from sweep import read_results

from mmscheme.engine.hooks.mixing_weights_hook import shorten
from mmscheme.utils.markdown import markdown_table
from mmscheme.visualization.figures import new_figure

_MARK = '<!-- table: {} -->'
_END = '<!-- end -->'


class Summary(NamedTuple):
    """A metric over the seeds of a cell.

    Attributes:
        values: By seed.
    """
    values: Tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float:
        """Standard deviation of a seed (n - 1); NaN for one."""
        n, mean = len(self.values), self.mean
        return math.sqrt(sum((v - mean)**2 for v in self.values) / (n - 1)) if n > 1 else math.nan

    def __str__(self) -> str:
        return f'{self.mean:.1f} ± {self.std:.1f}' if len(self.values) > 1 else f'{self.mean:.1f}'


class Cell(NamedTuple):
    """The results of a config.

    Attributes:
        name: Of the config.
        results: Of its seeds.
    """
    name: str
    results: List[Dict[str, Any]]

    def summary(self, test: Optional[str] = None, metric: Optional[str] = None) -> Summary:
        """Return a metric of a test; where none is named there must be only one.

        Raises:
            ValueError: There is no such test or metric, or several and none is named.
        """
        return Summary(tuple(
            self._choose('metric', self._choose('test', result['metrics'], test), metric)
            for result in self.results))

    def _choose(self, what: str, found: Dict[str, Any], name: Optional[str]) -> Any:
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if name not in found:
            raise ValueError(f'{self.name}: expected a {what} of {list(found)}, found {name!r}')
        return found[name]

    @property
    def params(self) -> float:
        """Parameters of inference, in M."""
        return float(self.results[0]['params']) / 1e6

    @property
    def macs(self) -> float:
        """Multiply-adds of inference, in M."""
        return float(self.results[0]['macs']) / 1e6


def find_cell(study: Union[str, Path], name: str) -> Cell:
    """Return the results of a config of a study.

    Args:
        study: Its folder; ``name`` may be ``<study>/<cell>`` for one beside it.
        name: Of the config.

    Returns:
        The results, by seed.

    Raises:
        ValueError: There are none, or two of one seed.
    """
    folder, _, cell = name.rpartition('/')
    path = Path(study, '..', folder) if folder else Path(study)
    found = [r for r in read_results(path / 'results.jsonl') if r['config'] == cell]
    if not found:
        raise ValueError(f'no results of {cell} in {path / "results.jsonl"}; '
                         f'studies/sweep.py {path} --cells {cell} makes them')
    if len({r['seed'] for r in found}) < len(found):
        raise ValueError(f'{path / "results.jsonl"}: several results of {cell} with one seed')
    return Cell(cell, sorted(found, key=lambda r: int(r['seed'])))


def save_figure(figure: Any, path: Union[str, Path]) -> None:
    """Write a PNG whose bytes depend on what is drawn alone."""
    figure.savefig(path, dpi=100, metadata=dict(Software=None))


def plot_seeds(axis: Any, rows: Sequence[Tuple[str, Summary]], label: str) -> None:
    """Draw a line for each cell, the first on top: a dot for each seed, a bar at the mean.

    Args:
        axis: To draw on.
        rows: Name and metric of each.
        label: Of the metric.
    """
    for i, (_, summary) in enumerate(rows):
        axis.plot(summary.values, [i] * len(summary.values), 'o', color='tab:blue', alpha=0.55,
                  markersize=5)
        axis.plot([summary.mean] * 2, [i - 0.32, i + 0.32], color='black', linewidth=1.6)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.grid(axis='x', alpha=0.3)


def compare(study: Union[str, Path], names: Dict[str, str], label: str,
            metric: Optional[str] = None) -> str:
    """Draw the cells of a study beside each other, into its ``figure.png``.

    Args:
        study: Its folder.
        names: What to call each cell, by its name for :func:`find_cell`.
        label: What is measured, with its unit.
        metric: Its name in the results, where there are several.

    Returns:
        A table with the costs of inference and the metric, mean and deviation of a seed.
    """
    cells = {name: find_cell(study, path) for path, name in names.items()}
    figure, ((axis, ), ) = new_figure(size=(6.5, 1.1 + 0.34 * len(cells)))
    plot_seeds(axis, [(name, cell.summary(metric=metric)) for name, cell in cells.items()],
               f'{label} (dots: seeds)')
    save_figure(figure, Path(study, 'figure.png'))
    return markdown_table(
        ('channel mixer', 'params in M', 'multiply-adds in M', label, 'seeds'),
        [(name, f'{c.params:.2f}', f'{c.macs:.1f}', c.summary(metric=metric), len(c.results))
         for name, c in cells.items()])


def plot_curves(axis: Any, cell: Cell) -> None:
    """Draw ``1 - alpha`` of each block over training: the mean of the seeds and their range.

    Args:
        axis: To draw on.
        cell: Of a model with CCA.

    Raises:
        ValueError: The seeds were logged at different iterations.
    """
    from matplotlib import colormaps

    curves = [r['curve'] for r in cell.results]
    steps, names = curves[0]['iterations'], list(curves[0]['weights'])
    if any(c['iterations'] != steps for c in curves):
        raise ValueError(f'{cell.name}: the seeds were logged at different iterations')
    for i, (name, label) in enumerate(zip(names, shorten(names))):
        colour = colormaps['viridis'](i / max(1, len(names) - 1) * 0.9)
        values = list(zip(*(c['weights'][name] for c in curves)))
        axis.plot(steps, [sum(v) / len(v) for v in values], color=colour, label=label)
        axis.fill_between(steps, list(map(min, values)), list(map(max, values)), color=colour,
                          alpha=0.2, linewidth=0)
    axis.grid(alpha=0.3)


def splice_table(text: str, name: str, table: str) -> str:
    """Put a table into a document, between ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Raises:
        ValueError: The document has no such place.
    """
    pattern = re.escape(_MARK.format(name)) + r'\n.*?' + re.escape(_END)
    if not re.search(pattern, text, re.DOTALL):
        raise ValueError(f'the document has no {_MARK.format(name)} ... {_END}')
    new = f'{_MARK.format(name)}\n{table}\n{_END}'
    return re.sub(pattern, lambda _: new, text, count=1, flags=re.DOTALL)


def _drawings(folder: Path) -> Iterator[Tuple[str, Callable[[Path], Dict[str, str]]]]:
    for script in sorted(folder.glob('*/draw.py')):
        if not script.with_name('results.jsonl').is_file():
            continue  # has not been run
        yield script.parent.name, runpy.run_path(str(script))['draw']


def draw_studies(folder: Union[str, Path], document: Union[str, Path]) -> List[str]:
    """Draw the figures of all studies, and write their tables into a document.

    Args:
        folder: Of the studies. Each ``<study>/draw.py`` has a function ``draw(study)`` that
            writes figures beside it and returns tables by name.
        document: Markdown with the place of each table, see :func:`splice_table`.

    Returns:
        The names of the tables.

    Raises:
        ValueError: Results are missing, or the document has no place for a table.
    """
    folder, document = Path(folder), Path(document)
    text, names = document.read_text(), []
    for study, draw in _drawings(folder):
        for name, table in draw(folder / study).items():
            text = splice_table(text, name, table)
            names.append(name)
    document.write_text(text)
    return names
