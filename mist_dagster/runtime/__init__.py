"""What a step may use of the machine: devices, memory, executors; locks between processes; progress."""
