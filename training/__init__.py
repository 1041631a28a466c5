"""Training of JoVA: the commands that `jova` starts; what they are made of lies in the rooms below."""
