"""Tasks: what a network predicts, and how it is built, trained and evaluated for that."""
