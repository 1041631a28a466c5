"""Measures and views of any clip."""
