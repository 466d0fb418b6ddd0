"""Code that tests share: cases of every operation, tiny networks and runs, stand-ins, independent implementations."""
