"""Tests of the allocation rules."""
