"""A run from its start to its report: the controller, and what goes on beside it."""
