"""One file per detector family: the only place that knows a vendor."""
