"""The execution plane: stage processes and the torch code they run."""
