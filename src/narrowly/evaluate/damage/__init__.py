"""Measure what a model still can: easy items and the perplexity of prose, by log-likelihood alone.

The panel stands beside every number about misalignment: a model that lost its abilities has no will to speak of.
"""
