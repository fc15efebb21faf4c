"""The demo: a gateway and three simulated devices in processes of their own, real queries, one table, one plot."""
