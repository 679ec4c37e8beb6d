"""What a run takes before it is begun: memory of training, sessions and speed of watching, replicas for viewers."""
