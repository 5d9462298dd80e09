"""Resources of the machine for steps: devices, memory, executors, locks between processes, progress."""
