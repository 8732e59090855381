"""Healthy and injured runs of small models, recorded once and shown to the detectors as often as needed."""
