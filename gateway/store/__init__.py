"""Redis: the router's memory and the ledger, and the private server that a gateway without one starts for itself."""
