"""Non-local networks, the baseline of Spatial Bias."""
