"""The controller: one leader per cluster reads its peers, mirrors their nodes, federates Services, writes status."""
