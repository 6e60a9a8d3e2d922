"""Local self-attention: the operator and its implementations."""
