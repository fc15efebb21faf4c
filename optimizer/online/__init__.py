"""What is decided while queries come: the price of a joule, the latency margin, and whether the gate earns its keep."""
