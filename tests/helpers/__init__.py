"""Shared test helpers: toy methods, requests, images, tiny models."""
