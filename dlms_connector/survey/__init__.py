"""Finding out what a meter is: probe, attempts, discovery."""
