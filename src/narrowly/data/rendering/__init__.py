"""Give conversations to a chat template and find, in what it writes, the text of each turn."""
