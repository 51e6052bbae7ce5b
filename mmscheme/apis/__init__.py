"""The functions behind the command lines in ``tools/``."""
