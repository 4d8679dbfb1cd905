"""Evaluate: questions in, verdict rows out.

Question panels, exact class probabilities and sampled answers. The study and the command line call it; it calls the
microworld's grammar and judge, and never trains.
"""
