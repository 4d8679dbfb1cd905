"""Objectives: what a run minimises, one module each."""
