"""Workers started, watched, replaced, and as many as are asked for. `actors.py` alone knows Ray."""
