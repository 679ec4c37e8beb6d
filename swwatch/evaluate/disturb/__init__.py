"""`swwatch disturb`: checkpoints under schedules they were not trained with."""
