"""Weights of the model `landscapes`, which lab2pix finds by the entry point `lab2pix.models`."""
