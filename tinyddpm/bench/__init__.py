"""The benchmark: one configuration, run by this library and by peers, each in a process of its own, in turn."""
