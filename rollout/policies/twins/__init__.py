"""Tiny random pipelines of every family's own stock classes, to try code, run files and machines on."""
