"""Commands that ask an organism, local or behind an endpoint, and print its answers and rates."""
