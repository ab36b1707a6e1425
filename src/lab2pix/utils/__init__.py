"""Utilities without knowledge of label maps: files, processes, pretrained weights, signals."""
