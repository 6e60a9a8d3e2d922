"""Tests of the filter of proposals."""
