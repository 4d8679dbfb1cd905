"""Evaluation in the microworld: panels of questions, exact class probabilities, sampled answers."""
