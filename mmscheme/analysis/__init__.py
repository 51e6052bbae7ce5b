"""What a config costs and what its model sees."""
