"""The shell: the only place for Ray, Redis, Prometheus, clocks, signals and environment variables.

Inner rooms, an upper one may use those below: cli, fleet, observe, data; on the ground config and errors.
"""
