"""The benchmark: this library and its peers run one configuration, in turns, each in a process of its own."""
