"""Reproduction of the papers' tables: rows as data, sweeps over rows and seeds, published beside measured numbers."""
