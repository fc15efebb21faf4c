"""From evidence to a task model: heads, a few routes, prices (`learn`); policies side by side (`simulate`)."""
