module clustermesh.io/lab/pause

go 1.26.0
