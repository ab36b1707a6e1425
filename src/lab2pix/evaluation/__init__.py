"""Judging pictures: scores, the networks behind them, and reports that say how they came about."""
