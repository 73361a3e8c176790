"""BMC (thesis chapter 6, arXiv:2408.07471): preference pairs bridged and modelled by what differs in them."""
