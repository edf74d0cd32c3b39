"""Numbers a policy may ask for: stage times and memory sizes."""
