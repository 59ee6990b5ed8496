"""A loaded machine makes no test fail: properties are checked without a deadline per example."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
