"""What every room stands on: files, weights, processes, devices, versions."""
