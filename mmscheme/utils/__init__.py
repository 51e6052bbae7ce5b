"""What every room needs and that belongs to none."""
