"""How the steps of a training are executed."""
