"""What touches the kernel: netlink, VXLAN devices, routes, rules, addresses, nftables.

``dataplane.Kernel`` reads what carries our marks and writes differences; everything else here serves it. Addresses are
packed bytes in this package (4 or 16 of them): they go into messages and come out of dumps without conversion, hash
fast, and cost a third of an ``ipaddress`` object, which counts with ten thousand remote nodes.
"""
