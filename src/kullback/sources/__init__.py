"""Sources: languages whose entropy is known exactly."""
