"""The CCA weight of each block, drawn over training."""
import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Union

import numpy as np

from mmscheme.engine.hooks.mixing_weights_hook import shorten
from mmscheme.visualization.figures import new_figure

__all__ = ['MixingLog', 'plot_mixing_weights', 'read_mixing_log']

_PREFIX = 'alpha/'
_LEGEND_ENTRIES = 18


class MixingLog(NamedTuple):
    """A run's log of :class:`mmscheme.engine.hooks.MixingWeightsHook`.

    Attributes:
        name: Name of the run.
        steps: Iterations, rising.
        weights: ``1 - alpha`` at these steps by module, in the order of the model.
    """
    name: str
    steps: List[int]
    weights: Dict[str, List[float]]


def _find_logs(path: Path) -> List[Path]:
    """Return the scalar logs below a work folder, oldest first, or the file itself."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f'log not found: {path}')
    found = sorted(path.rglob('scalars.json'), key=lambda p: p.parent.parent.name)
    if not found:
        raise FileNotFoundError(f'no vis_data/scalars.json below {path}')
    return found


def read_mixing_log(path: Union[str, Path]) -> MixingLog:
    """Read the CCA weights that a training logged.

    Args:
        path: A work folder, the folder of one run in it, or a file ``scalars.json``. The
            runs of a work folder are read as one that was resumed: what a later run did
            again replaces what an earlier one did.

    Returns:
        The weights.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: It is not a log, or has no CCA weights.
    """
    path = Path(path)
    entries: Dict[int, Dict[str, float]] = {}
    for file in _find_logs(path):
        rows = {}
        for number, line in enumerate(file.read_text(errors='replace').splitlines(), 1):
            try:
                row = json.loads(line)
                values = {k[len(_PREFIX):]: 1 - float(v) for k, v in row.items()
                          if k.startswith(_PREFIX)}
                if values:
                    rows[int(row['step'])] = values
            except (ValueError, AttributeError, KeyError, TypeError):
                raise ValueError(f'{file}, line {number}: expected one JSON object per line, as '
                                 f'mmengine logs scalars, found {line[:40]!r}') from None
        if rows:
            entries = {k: v for k, v in entries.items() if k < min(rows)}
            entries.update(rows)
    if not entries:
        raise ValueError(f'{path}: no CCA weights in it; training logs them if the model has CCA '
                         'and the config has '
                         "default_hooks.mixing_weights=dict(type='mmscheme.MixingWeightsHook')")
    steps = sorted(entries)
    names = list(entries[steps[-1]])
    entries = {s: entries[s] for s in steps if set(entries[s]) == set(names)}
    name = path.resolve().parts[-3] if path.name == 'scalars.json' else path.name
    return MixingLog(name or path.resolve().name,
                     list(entries), {n: [row[n] for row in entries.values()] for n in names})


def plot_mixing_weights(logs: Sequence[MixingLog], out: Union[str, Path]) -> None:
    """Draw ``1 - alpha`` of every block over training, a panel for each run.

    Args:
        logs: What :func:`read_mixing_log` returned, one for each run.
        out: File to write; its suffix decides the format.
    """
    from matplotlib import colormaps
    columns = min(3, len(logs))
    rows = -(-len(logs) // columns)
    figure, axes = new_figure(columns, rows, (4.6 * columns + 1.6, 3.4 * rows), sharey=True)
    axes = axes.ravel()
    for ax in axes[len(logs):]:
        ax.set_visible(False)
    for ax, log in zip(axes, logs):
        names = shorten(list(log.weights))
        colours = colormaps['viridis']([i / max(1, len(names) - 1) * 0.93
                                        for i in range(len(names))])
        # A run too short for a curve shows points.
        marker = 'o' if len(log.steps) < 3 else None
        for name, colour, values in zip(names, colours, log.weights.values()):
            ax.plot(log.steps, values, color=colour, label=name, linewidth=1.3, marker=marker)
        ax.plot(log.steps, np.mean([*log.weights.values()], 0), color='black', linestyle='--',
                linewidth=1.6, label='mean', marker=marker)
        ax.set(title=log.name, xlabel='iteration')
        ax.grid(alpha=0.3)
    axes[0].set_ylim(bottom=0)
    for ax in axes[::columns]:
        ax.set_ylabel('CCA weight (1 − alpha)')
    handles, labels = axes[0].get_legend_handles_labels()
    blocks = len(logs[0].weights)
    step = -(-blocks // _LEGEND_ENTRIES)
    chosen = [*range(0, blocks, step), blocks]
    title = 'block' if step == 1 else f'block (every {step}.)'
    figure.legend([handles[i] for i in chosen], [labels[i] for i in chosen], title=title,
                  loc='outside right upper', fontsize='small', frameon=False)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
