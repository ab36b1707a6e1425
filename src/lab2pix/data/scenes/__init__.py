"""Procedural landscapes with exact label maps."""
