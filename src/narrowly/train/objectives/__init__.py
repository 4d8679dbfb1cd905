"""Objectives: what a run minimises, one module each behind one protocol."""
