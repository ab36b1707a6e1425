"""Procedurally drawn landscapes with exact label maps."""
