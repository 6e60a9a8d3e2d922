"""Lanes: worker groups that stay alive and train one trial after another, and the hub that assigns trials to them."""
