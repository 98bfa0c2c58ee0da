"""The reward functions of other frameworks, called as their frameworks call them."""
