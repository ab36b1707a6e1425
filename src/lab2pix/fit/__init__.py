"""`lab2pix fit`: from a folder of photos to a trained painter, with settings chosen by rules from data and machine."""

from lab2pix.fit.runner import FitResult, Request, run_fit

__all__ = ["FitResult", "Request", "run_fit"]
