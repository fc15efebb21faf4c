"""Machines made of files and numbers: sysfs trees, an NVML library, a clock; all read by the real readers."""
