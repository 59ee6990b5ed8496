"""Each is a plain object that an actor holds: it draws, scores or learns, and knows nothing of Ray."""
