"""Figures of merit: one `evaluate.Metric` module a metric, each usable by its path alone."""
