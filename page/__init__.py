"""The page of `jova app`; as a folder of its own, a Space."""
