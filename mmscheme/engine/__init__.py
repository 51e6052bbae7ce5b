"""What runs around the model: hooks for mmengine's Runner."""
