"""What tests share: small worlds, scripted servers, and ways to make things fail."""
