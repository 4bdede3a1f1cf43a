"""What a network costs: its size, its multiply-adds, its bytes and its time. One file each.

`size` and `compute` count, `storage` writes a file and weighs it, `latency` runs the network and takes the
time. What is counted is called theoretical; what was run on this machine is called measured; neither stands
in for the other.
"""
