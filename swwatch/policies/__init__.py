"""What is seen, what is kept, when to speak, how a token is chosen: one table each."""
