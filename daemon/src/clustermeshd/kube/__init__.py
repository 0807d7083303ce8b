"""Everything that speaks to an API server: client, informer, lease, typed objects, writer."""
