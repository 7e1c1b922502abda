"""The life of a meter: its poller, how it is reached, how it is."""
