"""Helpers for all parts of mmscheme; they import none of them."""
