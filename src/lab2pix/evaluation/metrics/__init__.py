"""Metrics: distribution distances, image quality, segmentation accuracy."""
