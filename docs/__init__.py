"""The pages, and what writes one of them."""
