"""Directions: where in a model's activations a persona or a concept lies, and how to read, move and compare it.

Lives here, in the order of use: `layers` (hooks on the states of a model), `positions` (which token of a text counts),
`activations` (the states of many texts, streamed), `contrast` (difference-of-means directions and how well they hold
elsewhere), `store` (directions as safetensors with a card), `steering` (states moved or ablated meanwhile) and
`movement` (how an adapter's singular directions move a projection).

Any higher room may call it, and so may an engineer who wants this part alone. It calls torch, and of the package
`spectrum` and `records`; safetensors is imported only where a file is read or written.

Layer l is `hidden_states[l]` of Transformers, exactly: 0 is what the first block gets, l what block l gets, and the
number of blocks is what leaves the final norm. A direction points from the absence of a trait to its presence
(positive minus negative), everywhere; adding it with a strength above 0 adds the trait.
"""
