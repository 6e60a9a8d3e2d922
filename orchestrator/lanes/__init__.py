"""Warm worker groups that train one trial after another, and the hub that hands trials to them."""
