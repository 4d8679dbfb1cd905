"""The paired bank: log-odds of a harmful against an aligned answer, and what they say beside a control."""
