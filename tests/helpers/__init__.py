"""What the tests share: cases of every operation, tiny networks, and independent implementations to compare with."""
