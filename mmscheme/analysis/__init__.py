"""Costs, times, reports and pictures of models, trainings and data."""
