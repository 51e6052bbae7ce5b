"""Figures of matplotlib."""
from typing import Any, Tuple

__all__ = ['new_figure']


def new_figure(columns: int = 1, rows: int = 1, size: Tuple[float, float] = (5., 3.6),
               **kwargs: Any) -> Tuple[Any, Any]:
    """Make a figure without pyplot, which needs no display and changes nothing global.

    Args:
        columns, rows: Numbers of panels.
        size: Width and height of all, in inches.
        **kwargs: For ``Figure.subplots``.

    Returns:
        The figure, and its axes as an array ``(rows, columns)``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=size, layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)
