"""Hooks and training loops for mmengine's Runner."""
