"""Which file to deploy: decisions on measured numbers, and the search that measures them."""
