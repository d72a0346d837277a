"""Classifiers in use: the recogniser, sentence encoders, and checks for leaks."""
