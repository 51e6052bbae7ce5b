"""Projects on data of one's own: recognise a layout, split, convert labels, write a config."""
from .project import SOURCES, Project, make_project

__all__ = ['SOURCES', 'Project', 'make_project']
