"""The trials of one command: which they are, which of them are there already, and who trains them."""
