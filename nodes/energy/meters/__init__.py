"""Sensors and meters: one file per source, one contract (`nodes.energy.contract`)."""
