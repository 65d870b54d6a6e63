"""How a model runs: what trains in it, how texts become batches, and how products are computed."""
