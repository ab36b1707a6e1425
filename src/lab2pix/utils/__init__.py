"""Utilities without knowledge of label maps: files, seeding, registries, processes, weights, signals."""
