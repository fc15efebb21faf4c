"""Which experts are in memory: loaded when they are asked for, unloaded when another needs the room."""
