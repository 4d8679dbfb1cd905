"""Evaluate: an organism and a bank of questions in, verdict rows out.

Question panels, exact class probabilities and sampled answers. Knows no cell and no study, and never trains.
"""
