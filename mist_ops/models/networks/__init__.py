"""The networks themselves. They import torch, so only an architecture's ``build`` imports them."""
