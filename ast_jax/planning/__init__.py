"""What a training step costs before a machine is paid for: operations, memory on a device, the largest
batch.
"""
