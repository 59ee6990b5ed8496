"""The workers and the controller that drives them. A worker is a plain object; `actors.py` alone knows Ray."""
