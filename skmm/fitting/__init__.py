"""The two ways of fitting: one loop for gradients, one for alternating updates."""
