"""Training: what is learned (dan, degradation, sr), from what (data, pairs), how (loop, recipe)."""
