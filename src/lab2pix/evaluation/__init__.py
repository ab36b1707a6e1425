"""Evaluation: metrics, their networks, and reports with the complete protocol."""
