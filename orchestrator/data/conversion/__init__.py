"""Conversion of distributed datasets to Arrow shards and a manifest."""
