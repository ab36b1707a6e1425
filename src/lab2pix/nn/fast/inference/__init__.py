"""Fused generators for inference."""
