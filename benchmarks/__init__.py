"""Measurements that need more than the product: other servers, side by side."""
