"""Segmentation networks that published scores were computed with, under their authors' names of weights."""
